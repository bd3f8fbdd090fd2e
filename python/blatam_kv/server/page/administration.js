// What administrators may: clear, back up, pause, choose the policy, and pin answers.
import { bytes } from "./charts.js";
import { ask, may } from "./session.js";
import { number, say, t } from "./words.js";

const by = (id) => document.getElementById(id);
let pins = { pins: [], pinned: 0, bytes: 0, limit_bytes: 0 };
let told = null;

// Said now, and again after a change of language.
function tell(text) {
  told = text;
  by("admin-state").textContent = text();
}

export function begin() {
  by("clear").addEventListener("click", () => by("sure").showModal());
  by("sure-no").addEventListener("click", () => by("sure").close());
  by("sure-yes").addEventListener("click", async () => {
    by("sure").close();
    await change("POST", "/api/v1/kv-cache/clear", (json) => `${number(json.cleared)} ${t("cleared")}`);
    await showPins();
  });
  by("backup").addEventListener("click", () => change("POST", "/api/v1/backups", (json) => t(json.backup ? "backed_up" : "back_up_none")));
  by("pause").addEventListener("click", async () => {
    const paused = by("pause").dataset.t === "resume";
    const json = await change("POST", paused ? "/processor/start" : "/processor/stop", () => t(paused ? "resumed" : "paused"));
    if (json) showPaused(json.status);
  });
  by("steer").addEventListener("submit", (event) => {
    event.preventDefault();
    change("PUT", `/api/v1/kv-cache/policy/${by("policy").value}`, (json) => `${json.policy} ${t("decides")}`);
  });
}

// Ask for a change and tell what came of it, above all that nothing did. What was answered, if it was done.
async function change(method, path, said) {
  const { status, json } = await ask(method, path, method === "POST" ? { body: {} } : {}).catch(() => ({ status: 0, json: {} }));
  const good = status >= 200 && status < 300;
  tell(() => (good ? said(json) : json.detail ?? t(status ? "failed" : "unreachable")));
  return good ? json : null;
}

// What is so now, when somebody signs in.
export async function arrive() {
  by("admin").hidden = !may("admin");
  told = null;
  by("admin-state").textContent = "";
  if (!may("admin")) return;
  const none = () => ({ status: 0 });
  const [processor, policy] = await Promise.all([ask("GET", "/processor/status").catch(none), ask("GET", "/api/v1/kv-cache/policy").catch(none), showPins()]);
  if (processor.status === 200) showPaused(processor.json.status);
  if (policy.status !== 200) return;
  by("policy").replaceChildren(...policy.json.policies.map((name) => new Option(name, name, name === policy.json.configured, name === policy.json.policy)));
}

export function retell() {
  if (told) by("admin-state").textContent = told();
  drawPins();
}

function showPaused(status) {
  say(by("pause"), status === "paused" ? "resume" : "pause");
}

async function showPins() {
  const { status, json } = await ask("GET", "/cache/pins").catch(() => ({ status: 0 }));
  if (status !== 200) return;
  pins = json;
  drawPins();
}

function drawPins() {
  if (!may("admin")) return;
  by("pinned-sum").textContent = `${number(pins.pinned)} · ${bytes(pins.bytes)} ${t("of")} ${bytes(pins.limit_bytes)}`;
  by("pinned").replaceChildren(...pins.pins.map((each) => {
    const row = document.createElement("li"), text = document.createElement("div"), title = document.createElement("p"), size = document.createElement("p");
    title.className = "title";
    title.textContent = each.title;
    size.className = "small";
    size.textContent = bytes(each.bytes);
    text.append(title, size);
    row.append(text, pinButton(each));
    return row;
  }));
  for (const button of document.querySelectorAll("[data-pin]")) mark(button);
}

function mark(button) {
  const pinned = pins.pins.some((each) => each.document_id === button.dataset.pin);
  say(button, pinned ? "unpin" : "pin");
  button.setAttribute("aria-label", `${t(pinned ? "unpin" : "pin")}: ${button.title}`);
}

// A button that pins the answer of a document, or lets go of it.
export function pinButton({ document_id: id, title }) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.dataset.pin = id;
  button.title = title;
  button.hidden = !may("admin");
  mark(button);
  button.addEventListener("click", async () => {
    const pinned = button.dataset.t === "unpin";
    await change(pinned ? "DELETE" : "PUT", `/cache/pins/${id}`, () => t(pinned ? "unpinned" : "pinned_it"));
    await showPins();
  });
  return button;
}
