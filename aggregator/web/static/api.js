// Talks to /api/v1 with the token of this tab. The token is in sessionStorage: it ends with the tab, and no other site
// can make the browser send it, as it could a cookie.

const KEY = "edgefold-token";
const DEADLINE_MS = 10_000;

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// A link with #token=... logs in (make demo prints one); the fragment never leaves the browser and is taken away at once.
export function takeTokenFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    keepToken(token);
    history.replaceState(null, "", location.pathname);
  }
}

export const keepToken = (token) => sessionStorage.setItem(KEY, token);
export const forgetToken = () => sessionStorage.removeItem(KEY);
export const hasToken = () => sessionStorage.getItem(KEY) !== null;

export async function ask(path, body) {
  const headers = { authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
  const request = { headers, cache: "no-store", signal: AbortSignal.timeout(DEADLINE_MS) };
  if (body !== undefined) {
    request.method = "POST";
    request.body = JSON.stringify(body);
    headers["content-type"] = "application/json";
  }
  const answer = await fetch(`api/v1/${path}`, request);
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, value.detail ?? answer.statusText);
  return value;
}
