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
    const { json } = await ask("POST", "/api/v1/kv-cache/clear", { body: {} });
    tell(() => `${number(json.cleared ?? 0)} ${t("cleared")}`);
    await showPins();
  });
  by("backup").addEventListener("click", async () => {
    const { status, json } = await ask("POST", "/api/v1/backups", { body: {} });
    tell(() => (status === 200 ? t(json.backup ? "backed_up" : "back_up_none") : json.detail));
  });
  by("pause").addEventListener("click", async () => {
    const paused = by("pause").dataset.t === "resume";
    const { status, json } = await ask("POST", paused ? "/processor/start" : "/processor/stop", { body: {} });
    if (status !== 200) return;
    showPaused(json.status);
    tell(() => t(paused ? "resumed" : "paused"));
  });
  by("steer").addEventListener("submit", async (event) => {
    event.preventDefault();
    const { status, json } = await ask("PUT", `/api/v1/kv-cache/policy/${by("policy").value}`);
    tell(() => (status === 200 ? `${json.policy} ${t("decides")}` : json.detail));
  });
}

// What is so now, when somebody signs in.
export async function arrive() {
  by("admin").hidden = !may("admin");
  told = null;
  by("admin-state").textContent = "";
  if (!may("admin")) return;
  const [processor, policy] = await Promise.all([ask("GET", "/processor/status"), ask("GET", "/api/v1/kv-cache/policy"), showPins()]);
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
  const { status, json } = await ask("GET", "/cache/pins");
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
    const { status, json } = await ask(pinned ? "DELETE" : "PUT", `/cache/pins/${id}`);
    if (status < 300) tell(() => t(pinned ? "unpinned" : "pinned_it"));
    else tell(() => json.detail);
    await showPins();
  });
  return button;
}
