// Colours for code: comments, strings, numbers and common keywords. One pass, linear in the text.

const KEYWORDS = new Set(
  (
    "abstract and as async await bool break case catch char class const continue def default del do " +
    "double elif else enum except export extends false False final finally float fn for from func " +
    "function global go if impl import in int interface is lambda let long loop match mod module mut " +
    "namespace new nil None not null operator or package pass private protected pub public raise " +
    "return self Self short sizeof static string struct super switch template this throw trait true " +
    "True try type typedef typename typeof union unsafe unsigned use using var virtual void where " +
    "while with yield select SELECT FROM WHERE INSERT INTO UPDATE DELETE CREATE TABLE JOIN ON AND OR " +
    "NOT NULL ORDER GROUP BY LIMIT echo then fi done esac local"
  ).split(" "),
);
const HASH =
  /^(py|python|sh|bash|zsh|shell|console|ruby|rb|perl|pl|r|yaml|yml|toml|make|makefile|dockerfile|conf|ini|elixir|nim|julia|jl)$/;
const DASH = /^(sql|lua|haskell|hs|ada|elm)$/;
const PLAIN = /^(text|txt|plain|plaintext|log|output|markdown|md|diff|)$/;
const MAX_CODE = 100_000;

const STRINGS =
  "\"\"\"[^]*?(?:\"\"\"|$)|'''[^]*?(?:'''|$)|\"(?:[^\"\\\\\\n]|\\\\.)*\"?|'(?:[^'\\\\\\n]|\\\\.)*'?|`(?:[^`\\\\]|\\\\.)*`?";
const NUMBERS = "\\b(?:0[xXbBoO][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\b";
const WORDS = "[A-Za-z_$][\\w$]*";

function grammarOf(language) {
  let comments = "//[^\\n]*|/\\*[^]*?(?:\\*/|$)";
  if (HASH.test(language)) comments = "#[^\\n]*";
  else if (DASH.test(language)) comments = "--[^\\n]*";
  else if (/^(html|xml|svg|vue)$/.test(language)) comments = "<!--[^]*?(?:-->|$)";
  else if (language === "json") comments = "(?!)";
  return new RegExp(`(${comments})|(${STRINGS})|(${NUMBERS})|(${WORDS})`, "g");
}

/** Fill `node` with `code`, coloured as far as its language is known. */
export function highlight(node, code, language) {
  const name = language.toLowerCase();
  if (PLAIN.test(name) || code.length > MAX_CODE) {
    node.textContent = code;
    return;
  }
  const pieces = [];
  let at = 0;
  for (const found of code.matchAll(grammarOf(name))) {
    const kind = kindOf(found, code);
    if (!kind) continue;
    pieces.push(code.slice(at, found.index), span(kind, found[0]));
    at = found.index + found[0].length;
  }
  node.replaceChildren(...pieces, code.slice(at));
}

function kindOf(found, code) {
  if (found[1] !== undefined) return "comment";
  if (found[2] !== undefined) return "string";
  if (found[3] !== undefined) return "number";
  if (KEYWORDS.has(found[4])) return "keyword";
  return code[found.index + found[0].length] === "(" ? "call" : null;
}

function span(kind, text) {
  const node = document.createElement("span");
  node.className = `hl-${kind}`;
  node.textContent = text;
  return node;
}
