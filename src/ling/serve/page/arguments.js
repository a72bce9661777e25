// JSON made readable by white space alone: numbers and escapes stay as the model wrote them.

const MAX = 200_000;

/** `text` with a line for each member, if it is JSON; otherwise as it is. */
export function indented(text) {
  if (text.length > MAX) return text;
  try {
    JSON.parse(text);
  } catch {
    return text; // not whole yet, or no JSON
  }
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  // Strings, empty brackets, single signs, and what stands between them.
  const parts = text.match(/"(?:[^"\\]|\\.)*"|\{\s*\}|\[\s*\]|[{}[\],:]|[^\s"{}[\],:]+/g) ?? [];
  return parts
    .map((part) => {
      if (part === "{" || part === "[") {
        depth += 1;
        return part + line();
      }
      if (part === "}" || part === "]") {
        depth -= 1;
        return line() + part;
      }
      if (part === ",") return part + line();
      return part === ":" ? ": " : part;
    })
    .join("");
}
