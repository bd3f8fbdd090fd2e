// The devices that the model runs on: how busy each is, its memory, what it has to do, whether it is given work.
import { bytes, count, percent } from "./charts.js";
import { number, t } from "./words.js";

// What is shown of each, by the names of /metrics: several, or the one GPU that is read and no more.
export function devices(figures) {
  return figures.all("kv_cache_gpu_in_rotation").map(({ labels: { gpu }, value }) => {
    const of = (name) => figures.value(`kv_cache_gpu_${name}{gpu="${gpu}"}`);
    const busy = of("utilization_ratio"), total = of("memory_bytes"), celsius = of("temperature_celsius"), watts = of("power_watts"), calls = of("in_flight");
    const details = [];
    if (total) details.push(`${bytes(of("memory_used_bytes"))} ${t("of")} ${bytes(total)}`);
    if (celsius !== undefined) details.push(`${number(celsius)} °C`);
    if (watts !== undefined) details.push(`${number(watts)} W`);
    if (calls !== undefined) details.push(`${count(calls)} ${t("calls")}, ${count(of("in_flight_tokens") + of("queued_tokens"))} tokens`);
    return { name: /^\d+$/.test(gpu) ? `GPU ${gpu}` : gpu, out: !value, busy, share: busy === undefined ? "–" : percent(busy), details: details.join(" · ") };
  }).sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));
}

export function element({ name, out, busy, share, details }) {
  const device = document.createElement("div"), meter = document.createElement("div"), text = document.createElement("p");
  const parts = [name, null, share].map((said) => {
    const part = document.createElement(said === null && busy !== undefined ? "progress" : "span");
    if (said !== null) part.textContent = said;
    else if (busy !== undefined) { part.value = busy; part.setAttribute("aria-label", name); }
    return part;
  });
  device.className = "device";
  meter.className = "meter";
  meter.append(...parts);
  text.className = "small";
  text.textContent = details;
  if (out) {
    const state = document.createElement("span");
    state.className = "bad";
    state.textContent = `${t("out")}${details ? " · " : ""}`;
    text.prepend(state);
  }
  device.append(meter, text);
  return device;
}
