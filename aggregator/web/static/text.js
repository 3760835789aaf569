// Numbers and times for people.

const BYTES = ["B", "kB", "MB", "GB", "TB"];

export function bytes(n) {
  let unit = 0;
  while (n >= 999.5 && unit < BYTES.length - 1) { n /= 1000; unit += 1; }
  return `${unit === 0 || n >= 100 ? n.toFixed(0) : n.toFixed(1)} ${BYTES[unit]}`;
}

export const count = (n) => n.toLocaleString("en");
export const percent = (fraction) => (fraction === null ? "–" : `${(100 * fraction).toFixed(1)} %`);
export const decimal = (value) => (value === null ? "–" : value.toFixed(3));

export const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;

export function duration(seconds) {
  if (seconds === null || seconds < 0) return "–";
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86400)} d`;
}

export function ago(unixSeconds, nowSeconds) {
  return unixSeconds === null ? "never" : `${duration(Math.max(0, nowSeconds - unixSeconds))} ago`;
}
