// Conversations as trees: every edit and every other answer is a branch that stays.
// Nothing here touches the page or the network.

const ROLES = ["user", "assistant", "tool"];
const FORMAT = "ling-conversations";
const MAX_TEXT = 4_000_000;

export const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) =>
    b.toString(16).padStart(2, "0"),
  ).join("");

export function newConversation(system = "") {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, system, nodes: {}, chosen: {} };
}

/** Add a message below `parent` (null: at the top) and show it. */
export function addNode(conversation, parent, fields) {
  const node = { id: newId(), parent, created: Date.now(), content: "", ...fields };
  conversation.nodes[node.id] = node;
  conversation.chosen[parent ?? ""] = node.id;
  conversation.updated = node.created;
  if (!conversation.title && node.role === "user") conversation.title = titleOf(node.content);
  return node;
}

export const titleOf = (text) => text.trim().split("\n")[0].slice(0, 80);

/** Messages with the same parent, in the order in which they came. */
export function siblings(conversation, node) {
  return childrenOf(conversation, node.parent);
}

export function childrenOf(conversation, parent) {
  return Object.values(conversation.nodes).filter((n) => n.parent === parent);
}

/** The messages that are shown, from the first one down. */
export function shownPath(conversation) {
  const path = [];
  let parent = null;
  for (;;) {
    const listed = childrenOf(conversation, parent);
    if (!listed.length) return path;
    const chosen = listed.find((n) => n.id === conversation.chosen[parent ?? ""]) ?? listed.at(-1);
    path.push(chosen);
    parent = chosen.id;
  }
}

/** Show the sibling `step` places further; what was chosen below it is shown again. */
export function switchBranch(conversation, node, step) {
  const listed = siblings(conversation, node);
  const next = listed[listed.indexOf(node) + step];
  if (next) conversation.chosen[node.parent ?? ""] = next.id;
  return next;
}

/** What the API is sent: the way from the top to `node`, inclusive. */
export function messagesTo(conversation, node) {
  const messages = [];
  for (let at = node; at; at = conversation.nodes[at.parent]) messages.unshift(message(at));
  if (conversation.system.trim())
    messages.unshift({ role: "system", content: conversation.system });
  return messages;
}

function message(node) {
  if (node.role === "tool")
    return { role: "tool", tool_call_id: node.toolCallId, content: node.content };
  if (node.role !== "assistant" || !node.toolCalls?.length)
    return { role: node.role, content: node.content };
  return {
    role: "assistant",
    content: node.content || null,
    tool_calls: node.toolCalls.map((call) => ({
      id: call.id,
      type: "function",
      function: { name: call.name, arguments: call.arguments },
    })),
  };
}

export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

/** Conversations from a file; a stranger may have written it, so every field is checked anew. */
export function imported(text) {
  const data = JSON.parse(text);
  if (data?.format !== FORMAT || data.version !== 1 || !Array.isArray(data.conversations)) {
    throw new Error("this is not a file of conversations that this page exported");
  }
  return data.conversations.map(checkedConversation);
}

function checkedConversation(given) {
  const made = newConversation(textOf(given.system));
  made.title = textOf(given.title).slice(0, 80);
  made.created = timeOf(given.created);
  made.updated = timeOf(given.updated);
  const listed = Object.values(given.nodes ?? {});
  // New names: a file cannot replace what is here, nor reach into an object's prototype.
  const names = new Map(listed.map((node) => [String(node?.id), newId()]));
  for (const node of listed) {
    const checked = checkedNode(node, names);
    made.nodes[checked.id] = checked;
  }
  dropLoops(made);
  for (const [parent, child] of Object.entries(given.chosen ?? {})) {
    const below = parent === "" ? "" : names.get(parent);
    if (below !== undefined && names.has(child)) made.chosen[below] = names.get(child);
  }
  return made;
}

function checkedNode(node, names) {
  if (!ROLES.includes(node?.role)) throw new Error("a message in this file has no known role");
  const made = {
    id: names.get(String(node.id)),
    parent: node.parent === null ? null : (names.get(String(node.parent)) ?? null),
    created: timeOf(node.created),
    role: node.role,
    content: textOf(node.content),
  };
  if (node.reasoning) made.reasoning = textOf(node.reasoning);
  if (node.toolCallId) made.toolCallId = textOf(node.toolCallId);
  if (node.name) made.name = textOf(node.name);
  if (node.finish) made.finish = textOf(node.finish);
  if (Array.isArray(node.toolCalls)) {
    made.toolCalls = node.toolCalls.map((call) => ({
      id: textOf(call?.id),
      name: textOf(call?.name),
      arguments: textOf(call?.arguments),
    }));
  }
  if (node.stats) made.stats = numbersOf(node.stats);
  return made;
}

/** Messages that never reach the top would be shown nowhere; they go. */
function dropLoops(conversation) {
  const reached = new Set();
  const visit = (parent) => {
    for (const node of childrenOf(conversation, parent)) {
      if (reached.has(node.id)) continue;
      reached.add(node.id);
    }
  };
  visit(null);
  for (const id of reached) visit(id); // a set visits what is added meanwhile
  for (const id of Object.keys(conversation.nodes))
    if (!reached.has(id)) delete conversation.nodes[id];
}

const textOf = (value) => (typeof value === "string" ? value.slice(0, MAX_TEXT) : "");
const timeOf = (value) => (Number.isFinite(value) ? value : Date.now());
const numbersOf = (given) =>
  Object.fromEntries(
    Object.entries(given)
      .filter(([, value]) => Number.isFinite(value))
      .slice(0, 20),
  );
