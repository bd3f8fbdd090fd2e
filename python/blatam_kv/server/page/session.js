// Who is signed in, and how the service is asked in their name.
const base = document.documentElement.dataset.base;
let session = { signed_in: false };
let lost = () => {};

export const may = (scope) => session.signed_in && (session.scopes.includes(scope) || session.scopes.includes("admin"));

// From here on this session; ended: called when the service says that it is over.
export function hold(found, ended) {
  session = found;
  lost = ended;
}

export async function ask(method, path, { body, headers = {} } = {}) {
  if (method !== "GET" && session.csrf_token) headers["X-CSRF-Token"] = session.csrf_token;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(base + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: "same-origin" });
  const json = (answer.headers.get("content-type") ?? "").includes("json") ? await answer.json() : {};
  if (answer.status === 401 && session.signed_in) lost();
  return { status: answer.status, json, headers: answer.headers };
}
