// Where entries lie, GPUs, and the nodes: tables that are made anew only when they would look different.
import { bytes, count } from "./charts.js";
import { devices, element } from "./devices.js";
import { language, number, say, t } from "./words.js";

const by = (id) => document.getElementById(id);
const signs = new Map();

// Whether what a place shows has changed since it was last asked for.
function changed(id, shown) {
  const sign = JSON.stringify([language, shown]);
  if (signs.get(id) === sign) return false;
  signs.set(id, sign);
  return true;
}

export function row(cells) {
  const line = document.createElement("tr");
  for (const [text, name] of cells) {
    const cell = document.createElement("td");
    cell.textContent = text;
    if (name) cell.className = name;
    line.append(cell);
  }
  return line;
}

// Rows of a table, or one row that says why there are none.
export function fill(id, rows, none) {
  if (!changed(id, rows)) return;
  if (rows.length) { by(id).replaceChildren(...rows.map(row)); return; }
  const line = row([[t(none), "none"]]);
  line.firstChild.colSpan = by(id).parentElement.tHead.rows[0].cells.length;
  by(id).replaceChildren(line);
}

export function draw(figures, about, others) {
  fill("tiers", figures.all("kv_cache_size_bytes").map(({ labels, value }) => {
    const own = `{store="${labels.store}",tier="${labels.tier}"}`;
    const limit = figures.value(`kv_cache_size_limit_bytes${own}`), failing = figures.value(`kv_tier_failing${own}`);
    const hits = figures.value(`kv_tier_requests_total{result="hit",store="${labels.store}",tier="${labels.tier}"}`);
    return [[t(labels.store)], [t(`${labels.tier}_tier`)], [count(figures.value(`kv_tier_entries${own}`) ?? 0), "num"],
      [limit ? `${bytes(value)} ${t("of")} ${bytes(limit)}` : bytes(value), "num"], [hits === undefined ? "–" : count(hits), "num"], [t(failing ? "failing" : "well"), failing ? "bad" : "good"]];
  }), "no_tiers");
  gpus(devices(figures));
  nodes(figures, about, others);
}

function gpus(found) {
  if (!changed("gpus", found)) return;
  if (found.length) { by("gpus").replaceChildren(...found.map(element)); return; }
  const text = document.createElement("p");
  text.className = "none";
  say(text, "no_gpu");
  by("gpus").replaceChildren(text);
}

function age(seconds) {
  const units = [["s", 60], ["min", 60], ["h", 24], ["d", Infinity]];
  for (const [unit, most] of units) {
    if (seconds < most) return `${number(Math.floor(seconds))} ${unit}`;
    seconds /= most;
  }
}

function nodes(figures, about, others) {
  if (!others) return;
  fill("nodes", (others.nodes ?? []).map((node) => [
    [node.this ? t("this_node") : node.name.slice(0, 8)],
    [t(node.since === null ? "gone" : "well"), node.since === null ? "bad" : "good"],
    [node.since === null ? "–" : age(Math.max(0, figures.at - node.since)), "num"],
    [count(node.unfinished), "num"],
  ]), "away");
  const shared = [];
  if (!others.database && !others.redis) shared.push(t("one_node"));
  if (others.redis) shared.push(others.listening === null ? t("redis_away") : `${count(others.listening)} ${t("hear")}`);
  const busy = figures.value("process_cpu_seconds_total") ?? 0, rss = figures.value("process_resident_memory_bytes") ?? 0;
  const text = `${t("this_node")}: blatam-kv ${about.version ?? ""} · ${count(about.writers ?? 0)} ${t("writers")} · CPU ${number(busy)} s · ${bytes(rss)} ${t("rss")}`;
  if (!changed("nodes-note", [shared, text])) return;
  by("nodes-note").textContent = text;
  by("nodes-shared").textContent = shared.join(" ");
}
