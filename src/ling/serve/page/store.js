// What the browser remembers: conversations in IndexedDB, settings in localStorage, and the API key
// only as long as the tab lives, unless the person asks for more.

const SETTINGS = "ling.settings";
const KEY = "ling.api-key";

export const DEFAULTS = {
  system: "",
  temperature: "",
  topP: "",
  maxTokens: "",
  seed: "",
  thinking: "default",
  tools: "",
  theme: "system",
  showMap: false,
};

export function loadSettings() {
  try {
    const given = JSON.parse(localStorage.getItem(SETTINGS) ?? "{}");
    const known = Object.entries(given).filter(([name, v]) => typeof v === typeof DEFAULTS[name]);
    return { ...DEFAULTS, ...Object.fromEntries(known) };
  } catch {
    return { ...DEFAULTS };
  }
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // Without storage the settings last as long as the page.
  }
}

let keyOfThisPage = "";

export function apiKey() {
  try {
    return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? keyOfThisPage;
  } catch {
    return keyOfThisPage;
  }
}

/** Remember a key; an empty one is forgotten everywhere. */
export function setApiKey(key, { keep = false } = {}) {
  keyOfThisPage = key;
  try {
    sessionStorage.removeItem(KEY);
    localStorage.removeItem(KEY);
    if (key) (keep ? localStorage : sessionStorage).setItem(KEY, key);
  } catch {
    // The variable has it.
  }
}

export function keyIsKept() {
  try {
    return localStorage.getItem(KEY) !== null;
  } catch {
    return false;
  }
}

/** Conversations by id; in memory only where the browser gives no database (private windows). */
export class Conversations {
  static async open() {
    const made = new Conversations();
    try {
      made.db = await opened();
      for (const conversation of await done(made.transaction("readonly").getAll())) {
        made.all.set(conversation.id, conversation);
      }
    } catch {
      made.db = null;
    }
    return made;
  }

  constructor() {
    this.all = new Map();
    this.db = null;
  }

  /** The newest first. */
  list() {
    return [...this.all.values()].sort((a, b) => b.updated - a.updated);
  }

  async save(conversation) {
    this.all.set(conversation.id, conversation);
    if (this.db) await done(this.transaction("readwrite").put(conversation));
  }

  async remove(id) {
    this.all.delete(id);
    if (this.db) await done(this.transaction("readwrite").delete(id));
  }

  transaction(mode) {
    return this.db.transaction("conversations", mode).objectStore("conversations");
  }
}

function opened() {
  const request = indexedDB.open("ling", 1);
  request.onupgradeneeded = () =>
    request.result.createObjectStore("conversations", { keyPath: "id" });
  return done(request);
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
