// The page: figures as they come, drawn; words, colours, and what signing in opens.
import { Chart, bytes, count, key, percent, time } from "./charts.js";
import { begin, look, retell } from "./documents.js";
import { Figures } from "./figures.js";
import * as places from "./places.js";
import { may } from "./session.js";
import { number, say, speak, t } from "./words.js";

const page = document.documentElement;
const by = (id) => document.getElementById(id);
const set = (id, text) => { const place = by(id); if (place.textContent !== text) place.textContent = text; };
const figures = new Figures();
let events = null, about = {}, others = null, passed = 0;
// So many figures come a second apart, then three: what a look costs is the frame, not what is in it.
const FEW = 20;
// After a refusal, in milliseconds: a gateway without its service gives one, and a key that was revoked.
const AGAIN = 5000;

const charts = {
  hit: new Chart("chart-hit", { name: "hit_rate", series: 1, top: 1, format: percent }),
  latency: new Chart("chart-latency", { name: "latency", series: 3, low: 0.00001, least: 10, format: time }),
  rate: new Chart("chart-rate", { name: "throughput", series: 1, least: 1, format: count }),
  queue: new Chart("chart-queue", { name: "queue", series: 5, least: 4, format: count }),
  memory: new Chart("chart-memory", { name: "memory", series: 2, least: 1 << 20, binary: true, format: bytes }),
  prefix: new Chart("chart-prefix", { name: "prefixes", series: 1, top: 1, format: percent }),
  shadows: new Chart("chart-shadows", { name: "shadows", series: 5, top: 1, format: percent }),
  evicted: new Chart("chart-evicted", { name: "evictions", series: 2, least: 4, format: count }),
};
Chart.begin(Object.values(charts));

// A legend: for each text the mark of its line, in the order of the series. Only texts that changed are
// touched.
function legend(id, texts) {
  const place = by(id);
  if (place.children.length !== texts.length) {
    place.replaceChildren(...texts.map((text, index) => { const mark = key(index); mark.append(text); return mark; }));
    return;
  }
  texts.forEach((text, index) => { const shown = place.children[index].lastChild; if (shown.data !== text) shown.data = text; });
}

function draw() {
  const now = figures.now, minute = figures.ago(60), at = figures.at;
  const all = now.hits + now.misses + now.collapsed;

  const recentRate = figures.hitRate(minute), totalRate = figures.hitRate();
  const rate = recentRate ?? totalRate;
  set("v-hit", rate === null ? "–" : percent(rate));
  set("n-hit", all ? `${t(recentRate === null ? "since_start" : "last_minute")} · ${t("since_start")} ${percent(totalRate)} ${t("of")} ${count(all)}` : t("no_requests"));
  charts.hit.push(at, [recentRate]);

  const before = now.count > minute.count ? minute : undefined;
  const quantiles = [0.5, 0.95, 0.99].map((q) => figures.quantile(q, before));
  set("v-latency", quantiles[0] === null ? "–" : time(quantiles[0]));
  legend("n-latency", ["P50", "P95", "P99"].map((name, index) => `${name} ${quantiles[index] === null ? "–" : time(quantiles[index])}`));
  charts.latency.push(at, before ? quantiles : [null, null, null]);

  const each = figures.rate("count");
  set("v-rate", each === null ? "–" : count(each));
  set("n-rate", `${count(now.count)} ${t("total")} · ${t("rendered")} ${count(figures.sum("bul_documents_total"))}`);
  charts.rate.push(at, [each]);

  const waiting = [0, 1, 2, 3, 4].map((priority) => figures.value(`bul_queue_depth{priority="${priority}"}`) ?? 0);
  set("v-queue", count(waiting.reduce((sum, one) => sum + one, 0)));
  legend("n-queue", waiting.map((one, priority) => `${t(`p${priority}`)} ${count(one)}`));
  charts.queue.push(at, waiting);

  const used = figures.value("kv_cache_memory_usage_bytes") ?? 0, blocks = figures.value("kv_blocks_memory_usage_bytes");
  const [ratio] = figures.all("kv_cache_compression_ratio");
  set("v-memory", bytes(used + (blocks ?? 0)));
  const codec = blocks === undefined ? "" : ` · ${t("codec")} ${about.codec ?? ratio?.labels.codec ?? ""}${ratio && ratio.value > 0 ? `, ${t("ratio")} ${number(ratio.value, 2)}` : ""}`;
  legend("n-memory", [`${t("answers")} ${bytes(used)} ${t("of")} ${bytes(figures.value("kv_cache_memory_limit_bytes") ?? 0)}`,
    blocks === undefined ? t("no_blocks") : `${t("blocks")} ${bytes(blocks)} ${t("of")} ${bytes(figures.value("kv_blocks_memory_limit_bytes"))}${codec}`]);
  charts.memory.push(at, [used, blocks ?? null]);

  const share = now.asked > minute.asked ? (now.found - minute.found) / (now.asked - minute.asked) : null;
  const overall = now.asked ? now.found / now.asked : null;
  set("v-prefix", (share ?? overall) === null ? "–" : percent(share ?? overall));
  set("n-prefix", blocks === undefined ? t("no_blocks") : now.asked ? `${count(now.found)} ${t("of")} ${count(now.asked)} · ${t("since_start")} ${percent(overall)}` : t("no_requests"));
  charts.prefix.push(at, [share]);

  const leader = figures.all("kv_cache_policy_leader"), pattern = figures.all("kv_cache_access_pattern").find(({ value }) => value);
  const names = leader.map(({ labels }) => labels.policy).sort();
  const shadow = names.map((name) => figures.value(`kv_cache_shadow_hit_ratio{policy="${name}"}`) ?? null);
  const [decides] = figures.all("kv_cache_policy_info");
  const leads = leader.find(({ value }) => value)?.labels.policy;
  set("v-leader", leads ?? decides?.labels.policy ?? "–");
  const regular = pattern ? ` · ${t("pattern")} ${t(pattern.labels.pattern)}` : "";
  legend("n-leader", names.length ? names.map((name, index) => `${name} ${shadow[index] === null ? "–" : percent(shadow[index])}`) : [t("no_shadows")]);
  set("p-leader", leads ? `${t("leader")}${regular}` : "");
  charts.shadows.push(at, shadow.slice(0, 5));

  set("v-evicted", `${count(now.evicted)} · ${count(now.refused)}`);
  legend("n-evicted", [`${t("evicted")} ${count(now.evicted)}`, `${t("refused")} ${count(now.refused)}`]);
  charts.evicted.push(at, [now.evicted, now.refused]);

  if (passed < FEW || passed % 3 === 0) places.draw(figures, about, others);
  passed += 1;
  document.body.dataset.ready = String(passed);
}

function state(word, good) {
  by("state").className = `pill ${good === undefined ? "" : good ? "good" : "bad"}`;
  const text = by("state").firstElementChild;
  if (text.dataset.t !== word) say(text, word);
}

function connect() {
  const open = page.dataset.open === "yes" || may("metrics:read");
  by("closed").hidden = open;
  if (!open || document.hidden) {
    events?.close();
    events = null;
    if (!open) state("locked");
    return;
  }
  if (events) return;
  events = new EventSource(`${page.dataset.base}/api/v1/events`);
  events.addEventListener("about", ({ data }) => {
    about = JSON.parse(data);
    const place = by("about");
    place.removeAttribute("data-t");
    place.textContent = `${about.model} · ${about.strategy} · ${about.version}`;
    figures.forget();
  });
  events.addEventListener("nodes", ({ data }) => { others = JSON.parse(data); if (figures.at) places.draw(figures, about, others); });
  events.addEventListener("figures", ({ data }) => {
    figures.take(JSON.parse(data));
    state("live", true);
    draw();
  });
  events.addEventListener("error", () => {
    state("lost", false);
    if (events?.readyState !== EventSource.CLOSED) return; // it tries again by itself
    events = null;
    setTimeout(() => look().catch(() => {}).finally(connect), AGAIN);
  });
}

function systems() {
  if (page.dataset.gateway !== "yes") return;
  by("systems-card").hidden = false;
  if (page.dataset.systems !== "yes") return;
  const told = new EventSource("api/v1/gateway/events");
  told.addEventListener("systems", ({ data }) => {
    places.fill("systems", JSON.parse(data).map((each) => [
      [each.name], [t(each.status), each.status === "healthy" ? "good" : each.status === "unhealthy" ? "bad" : "none"],
      [t(each.circuit === "closed" ? "circuit_closed" : each.circuit), each.circuit === "closed" ? "" : "warn"],
      [count(each.requests), "num"], [time(each.p95), "num"], [count(each.errors), "num"]]));
  });
}

const THEMES = ["auto", "light", "dark"];
function theme(name) {
  if (name === "auto") delete page.dataset.theme;
  else page.dataset.theme = name;
  localStorage.setItem("theme", name);
  say(by("theme"), `theme_${name}`);
}

function start() {
  const spoken = localStorage.getItem("language") ?? (navigator.language.startsWith("es") ? "es" : "en");
  speak(spoken);
  theme(THEMES.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "auto");
  for (const each of ["en", "es"]) {
    by(`lang-${each}`).addEventListener("click", () => {
      localStorage.setItem("language", each);
      speak(each);
      if (figures.at) draw();
      retell();
    });
  }
  by("theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf(localStorage.getItem("theme")) + 1) % 3]));
  document.addEventListener("visibilitychange", connect);
  connect();
  systems();
  begin(connect);
}

start();
