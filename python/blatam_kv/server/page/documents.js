// Signing in, and what that opens: documents and the form that writes them.
import * as administration from "./administration.js";
import { show } from "./markdown.js";
import { ask, hold, may } from "./session.js";
import { language, number, say, t } from "./words.js";

const base = document.documentElement.dataset.base;
const by = (id) => document.getElementById(id);
const FORMATS = ["markdown", "html", "txt", "json", "docx", "pdf"];
let ends = null, stream = null, task = null, heard = () => {}, told = null;

function entered(found) {
  hold(found, () => { entered({ signed_in: false }); by("sign-in-error").textContent = t("session_over"); });
  clearTimeout(ends);
  by("sign-in").hidden = found.signed_in;
  by("inside").hidden = !found.signed_in;
  by("sign-out").hidden = !found.signed_in;
  administration.arrive();
  by("write").hidden = !may("documents:write");
  if (found.signed_in) {
    ends = setTimeout(() => entered({ signed_in: false }), found.seconds * 1000);
    if (may("documents:read")) recent();
  }
  heard(found);
}

export async function begin(changed) {
  heard = changed;
  by("sign-in").addEventListener("submit", signIn);
  by("sign-out").addEventListener("click", () => ask("DELETE", "/api/v1/session").then(() => entered({ signed_in: false }), away));
  by("write").addEventListener("submit", write);
  by("stop").addEventListener("click", () => task && ask("DELETE", `/task/${task}`).catch(away));
  by("preview-close").addEventListener("click", () => by("preview").close());
  administration.begin();
  try {
    entered((await ask("GET", "/api/v1/session")).json);
  } catch {
    entered({ signed_in: false });
  }
}

// Look whether who was signed in still is, when the service refuses what it gave before.
export async function look() {
  const { status, json } = await ask("GET", "/api/v1/session");
  if (status !== 200 || json.signed_in || by("inside").hidden) return;
  entered(json);
  by("sign-in-error").textContent = t("session_over");
}

// What was said in the other language, said again.
export function retell() {
  if (may("documents:read")) recent();
  if (told) by("write-state").textContent = told();
  administration.retell();
}

async function signIn(event) {
  event.preventDefault();
  by("sign-in-error").textContent = "";
  try {
    const { status, json } = await ask("POST", "/api/v1/session", { headers: { "X-API-Key": by("key").value.trim() } });
    if (status === 201) entered(json);
    else by("sign-in-error").textContent = status === 401 ? t("bad_key") : json.detail;
  } catch {
    by("sign-in-error").textContent = t("unreachable");
  }
  by("key").value = "";
}

// Nobody answers, which the pill at the top says, too.
function away() {
  say(by("write-state"), "unreachable");
}

async function recent() {
  const { status, json } = await ask("GET", "/documents?limit=8").catch(() => ({ status: 0, json: {} }));
  const list = by("recent");
  list.replaceChildren();
  if (status !== 200 || !json.documents.length) {
    const none = document.createElement("li");
    none.className = "none";
    if (json.detail) none.textContent = json.detail;
    else say(none, status === 200 ? "no_documents" : "unreachable");
    list.append(none);
    return;
  }
  for (const each of json.documents) {
    const row = document.createElement("li"), text = document.createElement("div"), title = document.createElement("p"), about = document.createElement("p");
    title.className = "title";
    title.textContent = each.title;
    title.lang = each.language;
    about.className = "small";
    about.textContent = `${each.document_type.replaceAll("_", " ")} · ${each.language} · ${new Date(each.created * 1000).toLocaleString(language, { dateStyle: "medium", timeStyle: "short" })}`;
    text.append(title, about);
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    say(button, "preview");
    button.setAttribute("aria-label", `${t("preview")}: ${each.title}`);
    button.addEventListener("click", () => preview(each));
    row.append(text, button, administration.pinButton(each));
    list.append(row);
  }
}

async function preview(each) {
  const { json } = await ask("GET", `/documents/${each.document_id}?format=markdown`).catch(() => ({ json: {} }));
  by("preview-title").textContent = each.title;
  show(by("preview-text"), json.content ?? json.detail ?? t("unreachable"));
  by("preview-text").lang = json.content ? each.language : language;
  links(by("preview-links"), (format) => `/documents/${each.document_id}?format=${format}&download=1`);
  by("preview").showModal();
}

function links(place, address) {
  const label = document.createElement("span");
  say(label, "download");
  place.replaceChildren(label);
  for (const format of FORMATS) {
    const link = document.createElement("a");
    link.href = base + address(format);
    link.download = "";
    link.textContent = format;
    place.append(link);
  }
  place.hidden = false;
}

function finished() {
  stream?.close();
  stream = null;
  task = null;
  by("stop").hidden = true;
  by("paper").classList.remove("writing");
  by("write").querySelector("[type=submit]").disabled = false;
}

async function write(event) {
  event.preventDefault();
  const form = by("write"), fields = new FormData(form), wanted = {};
  for (const [name, value] of fields) if (value.trim()) wanted[name] = name === "priority" ? Number(value) : value.trim();
  by("write-error").textContent = "";
  told = null;
  by("downloads").hidden = true;
  by("paper").replaceChildren();
  by("paper").hidden = true;
  form.querySelector("[type=submit]").disabled = true;
  const began = performance.now();
  try {
    const { status, json } = await ask("POST", "/query", { body: wanted });
    if (status === 200) await done(json, began, true);
    else if (status === 202) follow(json, began);
    else fail(json.detail ?? t("failed"));
  } catch {
    fail(t("unreachable"));
  }
}

function fail(text) {
  by("write-state").textContent = "";
  by("write-error").textContent = text;
  finished();
}

function follow(asked, began) {
  task = asked.task_id;
  by("stop").hidden = false;
  say(by("write-state"), "in_queue");
  by("paper").lang = asked.language;
  listen(asked.task_id, began);
}

// The text from its beginning, at each connection.
function listen(id, began) {
  const paper = by("paper");
  let text = "";
  stream = new EventSource(`${base}/task/${id}/text`);
  stream.addEventListener("open", () => { text = ""; });
  stream.addEventListener("error", () => {
    if (stream?.readyState === EventSource.CLOSED) again(id, began); // refused, which is not tried again by itself
  });
  stream.addEventListener("waiting", ({ data }) => {
    const { position } = JSON.parse(data);
    by("write-state").textContent = position ? `${t("in_queue")}, ${t("position")} ${position}` : t("writing");
  });
  stream.addEventListener("text", ({ data }) => {
    text += JSON.parse(data);
    say(by("write-state"), "writing");
    paper.hidden = false;
    paper.classList.add("writing");
    show(paper, text);
    paper.scrollTop = paper.scrollHeight;
  });
  stream.addEventListener("again", () => { text = ""; paper.replaceChildren(); say(by("write-state"), "again"); });
  stream.addEventListener("done", ({ data }) => {
    const ended = JSON.parse(data);
    stream.close();
    over(ended, began);
  });
}

function over(ended, began) {
  if (ended.status === "completed") done(ended, began, false).catch(() => fail(t("unreachable")));
  else if (ended.status === "failed" || ended.status === "cancelled") fail(ended.error?.detail ?? t(ended.status));
  else again(ended.task_id, began); // the service stops, and goes on with it when it is back
}

// A stream that ended before its text did: the task may live on, or end meanwhile.
function again(id, began) {
  say(by("write-state"), "lost");
  setTimeout(async () => {
    if (task !== id) return;
    try {
      const { status, json } = await ask("GET", `/task/${id}/status`);
      if (status === 401) fail(t("session_over"));
      else if (status >= 500) again(id, began);
      else if (status !== 200) fail(json.detail ?? t("failed"));
      else if (json.status === "queued" || json.status === "processing") listen(id, began);
      else over(json, began);
    } catch {
      again(id, began);
    }
  }, 2000);
}

async function done(ended, began, cached) {
  const took = (performance.now() - began) / 1000;
  const [{ document_id: id }] = ended.documents;
  const { json } = await ask("GET", `/task/${ended.task_id}/documents?format=markdown`);
  const paper = by("paper");
  paper.hidden = false;
  show(paper, json.documents[0].content);
  paper.lang = json.documents[0].language;
  paper.scrollTop = 0;
  by("write-state").removeAttribute("data-t");
  told = () => (cached ? `${t("from_cache")} ${number(1000 * took, 0)} ms` : `${t("written_in")} ${number(took, 1)} ${t("seconds")}`);
  by("write-state").textContent = told();
  links(by("downloads"), (format) => `/documents/${id}?format=${format}&download=1`);
  finished();
  recent();
}
