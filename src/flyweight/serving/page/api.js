// Requests to this server, with the key that the user gave. The key lives in sessionStorage: this tab, nowhere else.

const KEY = "flyweight-key";

export function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function setKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

export class ApiError extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export async function request(path, { body, signal } = {}) {
  const headers = {};
  if (key()) headers.Authorization = `Bearer ${key()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
  });
  if (answer.ok) return answer;
  let message = `the server answered with status ${answer.status}`;
  try {
    const error = (await answer.json()).error;
    if (typeof error?.message === "string") message = error.message;
  } catch {
    // not JSON: the status says enough
  }
  const seconds = Number(answer.headers.get("Retry-After"));
  throw new ApiError(answer.status, message, Number.isFinite(seconds) && seconds > 0 ? seconds : null);
}

export async function json(path) {
  return (await request(path)).json();
}
