// The words of the page in both languages; English is what the HTML itself says.
const SPANISH = {
  skip: "Ir a las cifras", connecting: "conectando …", waiting: "a la espera", live: "en vivo", lost: "sin conexión", locked: "hace falta una clave",
  language: "Idioma", theme_auto: "Tema: automático", theme_light: "Tema: claro", theme_dark: "Tema: oscuro", sign_out: "Cerrar sesión",
  closed: "Desde aquí las cifras piden una clave. Inicie sesión abajo.", cache: "Caché", hit_rate: "Tasa de aciertos", latency: "Latencia",
  throughput: "Peticiones por segundo", queue: "Cola por prioridad", memory: "Memoria", prefixes: "Tokens de entrada no recalculados",
  shadows: "Aciertos que tendría cada orden", evictions: "Expulsadas y rechazadas", places: "Lugares", tiers: "Niveles", what: "Qué", where: "Dónde",
  entries: "Entradas", used: "Ocupado", hits: "Aciertos", state: "Estado", nodes: "Nodos", systems: "Sistemas detrás de la pasarela",
  system: "Sistema", circuit: "Circuito", requests: "Peticiones", errors: "Errores", documents: "Documentos", sign_in: "Iniciar sesión",
  sign_in_why: "Los documentos, el formulario y la administración piden una clave de API. Se cambia por una cookie que acaba a la media hora, y no se guarda en ningún otro sitio.",
  api_key: "Clave de API", write: "Escribir un documento", query: "¿De qué debe tratar?", company: "Empresa", doc_language: "Idioma", by_query: "el de la petición",
  style: "Estilo", professional: "profesional", modern: "moderno", minimal: "mínimo", corporate: "corporativo", creative: "creativo",
  priority: "Prioridad", p0: "crítica", p1: "alta", p2: "normal", p3: "baja", p4: "de fondo", write_it: "Escribir", cancel: "Cancelar",
  the_document: "El documento", recent: "Documentos recientes", admin: "Administración", pause: "Pausar la escritura", resume: "Reanudar la escritura",
  backup: "Copia de seguridad", clear: "Vaciar la caché", close: "Cerrar", no: "No", clear_sure: "¿Olvidar todas las respuestas y todos los prefijos guardados?",
  last_minute: "último minuto", since_start: "desde el inicio", of: "de", median: "mediana", no_requests: "todavía sin peticiones", total: "en total",
  waiting_tasks: "esperan", writers: "escritores", raw: "sin comprimir", codec: "códec", ratio: "compresión", answers: "respuestas", blocks: "prefijos",
  rendered: "documentos compuestos:", no_blocks: "este modelo no guarda prefijos", leader: "manda", pattern: "patrón", mixed: "mixto", random: "aleatorio", sequential: "secuencial", optimum: "óptimo",
  no_shadows: "esta política no compara órdenes", evicted: "expulsadas", refused: "rechazadas", memory_tier: "memoria", disk_tier: "disco", redis_tier: "Redis",
  well: "bien", failing: "falla", no_gpu: "Sin GPU: el servicio usa solo la CPU.", calls: "llamadas", out: "fuera de la rotación", this_node: "este nodo",
  no_tiers: "Sin niveles además de la memoria.", node: "Nodo", cpu: "CPU", rss: "memoria residente", gb: "GiB",
  no_documents: "Todavía no hay documentos.", preview: "Ver", download: "Descargar", from_cache: "de la caché, en", written_in: "escrito en", seconds: "s",
  position: "puesto", in_queue: "en la cola", writing: "escribiéndose …", again: "se intenta de nuevo …", failed: "no salió bien", cancelled: "cancelado",
  bad_key: "Esa clave no abre nada aquí.", unreachable: "El servicio no responde.", paused: "La escritura está en pausa.", resumed: "Se sigue escribiendo.",
  policy: "Qué sale primero, hasta que el servicio termine", change: "Cambiar", decides: "decide ahora.", pinned: "Respuestas fijadas", pin: "Fijar", unpin: "Soltar",
  pinned_it: "Fijada: no saldrá de la caché.", unpinned: "Suelta.", gone: "desaparecido", unfinished: "Tareas sin terminar", lives_for: "Vive desde hace", hear: "nodos se oyen por Redis.", redis_away: "Redis no responde: cada nodo trabaja solo.",
  away: "La base de datos no responde.", one_node: "Un solo nodo: no comparte ni base de datos ni Redis.",
  cleared: "respuestas olvidadas", backed_up: "Copia hecha.", back_up_none: "En el disco no hay nada que copiar.", session_over: "La sesión ha terminado.", five_minutes: "5 min", now: "ahora",
  healthy: "bien", unhealthy: "mal", unknown: "sin datos", open: "abierto", half_open: "a prueba", circuit_closed: "cerrado", lowest: "mínimo", highest: "máximo",
};
const ENGLISH = {
  live: "live", lost: "connection lost", locked: "needs a key", theme_light: "Theme: light", theme_dark: "Theme: dark", resume: "Resume writing",
  last_minute: "last minute", since_start: "since the start", of: "of", median: "median", no_requests: "no requests yet", total: "in all", waiting_tasks: "waiting", writers: "writers",
  raw: "not compressed", codec: "codec", ratio: "compression", answers: "answers", blocks: "prefixes", rendered: "documents rendered:", no_blocks: "this model keeps no prefixes", leader: "leads",
  pattern: "pattern", mixed: "mixed", random: "random", sequential: "sequential", optimum: "optimum", no_shadows: "this policy compares no orders", evicted: "evicted",
  refused: "refused", memory_tier: "memory", disk_tier: "disk", redis_tier: "Redis", well: "well", failing: "failing", no_gpu: "No GPU: the service runs on the CPU alone.", calls: "calls", out: "out of the rotation",
  this_node: "this node", no_tiers: "No tiers but memory.", cpu: "CPU", rss: "resident memory", gb: "GiB",
  no_documents: "No documents yet.", preview: "Preview", download: "Download", from_cache: "from the cache, in", written_in: "written in", seconds: "s", position: "place", in_queue: "in the queue",
  writing: "being written …", again: "trying again …", failed: "that did not work", cancelled: "cancelled", bad_key: "That key opens nothing here.", unreachable: "The service does not answer.",
  paused: "Writing is paused.", resumed: "Writing goes on.", cleared: "answers forgotten", backed_up: "Backup made.", back_up_none: "Nothing is on disk to back up.", session_over: "The session has ended.", five_minutes: "5 min", now: "now",
  decides: "decides now.", pin: "Pin", unpin: "Unpin", pinned_it: "Pinned: it will not be evicted.", unpinned: "No longer pinned.", gone: "gone", hear: "nodes hear one another through Redis.",
  redis_away: "Redis does not answer: each node works alone.", away: "The database does not answer.", one_node: "One node: it shares neither a database nor a Redis.",
  healthy: "well", unhealthy: "not well", unknown: "no data", open: "open", half_open: "trying", circuit_closed: "closed", lowest: "lowest", highest: "highest",
};

const original = new Map();
export let language = "en";

export function t(word) {
  return (language === "es" ? SPANISH[word] : ENGLISH[word]) ?? original.get(word) ?? word;
}

// Making a formatter takes a hundred times what using it does.
const formats = new Map();

export function number(value, digits = 0) {
  const name = `${language}${digits}`;
  let format = formats.get(name);
  if (!format) formats.set(name, format = new Intl.NumberFormat(language, { maximumFractionDigits: digits, minimumFractionDigits: digits }));
  return format.format(value);
}

export function speak(wanted) {
  language = wanted;
  document.documentElement.lang = wanted;
  for (const element of document.querySelectorAll("[data-t]")) {
    const word = element.dataset.t;
    if (!original.has(word)) original.set(word, element.textContent);
    element.textContent = t(word);
  }
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  for (const each of ["en", "es"]) document.getElementById(`lang-${each}`).setAttribute("aria-pressed", String(each === wanted));
}

// A word that changes with what happens: said now, and again after a change of language.
export function say(element, word) {
  if (!original.has(element.dataset.t)) original.set(element.dataset.t, element.textContent);
  element.dataset.t = word;
  element.textContent = t(word);
}
