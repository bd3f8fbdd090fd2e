// What the samples of /metrics mean: totals, and what happened between two moments.
export class Figures {
  constructor() {
    this.samples = new Map();
    this.index = new Map(); // names without labels → [key, labels]
    this.marks = []; // [at, hits, misses, collapsed, count, buckets, asked, found, evicted, refused]
  }

  take({ at, samples, gone }) {
    for (const [key, value] of Object.entries(samples)) {
      if (!this.samples.has(key)) this.enter(key);
      this.samples.set(key, value);
    }
    for (const key of gone) this.samples.delete(key);
    this.at = at;
    this.marks.push(this.mark());
    while (this.marks.length > 75) this.marks.shift();
  }

  // Labels are read once, when a sample is first heard of.
  enter(key) {
    const name = key.split("{", 1)[0], labels = {};
    for (const [, label, text] of key.matchAll(/([a-z_]+)="([^"]*)"/g)) labels[label] = text;
    if (!this.index.has(name)) this.index.set(name, new Map());
    this.index.get(name).set(key, labels);
  }

  forget() {
    this.samples.clear();
    this.index.clear();
    this.marks = []; // of another start they would be more than there is now
  }

  value(name) { return this.samples.get(name); }

  // All samples of a name, by their labels.
  all(name) {
    const found = [];
    for (const [key, labels] of this.index.get(name) ?? []) {
      const value = this.samples.get(key);
      if (value !== undefined) found.push({ labels, value });
    }
    return found;
  }

  sum(name, test = () => true) {
    let total = 0;
    for (const { labels, value } of this.all(name)) if (test(labels)) total += value;
    return total;
  }

  mark() {
    const requests = this.all("kv_cache_requests_total");
    const of = (status) => requests.filter(({ labels }) => labels.status === status).reduce((sum, { value }) => sum + value, 0);
    const buckets = this.all("kv_cache_latency_seconds_bucket")
      .map(({ labels, value }) => [labels.le === "+Inf" ? Infinity : Number(labels.le), value])
      .sort((one, other) => one[0] - other[0]);
    return {
      at: this.at, hits: of("hit"), misses: of("miss"), collapsed: of("collapsed"), buckets,
      count: this.value("kv_cache_latency_seconds_count") ?? 0,
      asked: this.value("kv_blocks_tokens_asked_total") ?? 0, found: this.sum("kv_blocks_tokens_found_total"),
      evicted: this.sum("kv_cache_evictions_total", ({ reason }) => reason === "capacity"), refused: this.sum("bul_rejected_total"),
    };
  }

  get now() { return this.marks[this.marks.length - 1]; }

  // The mark of about so many seconds ago; the oldest there is.
  ago(seconds) {
    const from = this.at - seconds - 0.5;
    return this.marks.find(({ at }) => at >= from) ?? this.now;
  }

  hitRate(before) {
    const { hits, misses, collapsed } = this.now;
    const all = hits + misses + collapsed - (before ? before.hits + before.misses + before.collapsed : 0);
    return all > 0 ? (hits - (before?.hits ?? 0)) / all : null;
  }

  // As histogram_quantile() does it: linear within the bucket that holds the rank.
  quantile(q, before) {
    const counts = this.now.buckets.map(([le, value], index) => [le, value - (before?.buckets[index]?.[1] ?? 0)]);
    const all = counts.length ? counts[counts.length - 1][1] : 0;
    if (!(all > 0)) return null;
    const rank = q * all;
    let least = 0, below = 0;
    for (const [le, cumulated] of counts) {
      if (cumulated >= rank) return le === Infinity ? least : least + (le - least) * ((rank - below) / (cumulated - below));
      least = le;
      below = cumulated;
    }
    return least;
  }

  rate(what, seconds = 10) {
    const before = this.ago(seconds);
    const time = this.at - before.at;
    return time > 0 ? (this.now[what] - before[what]) / time : null;
  }
}
