// The server's API: one request at a time, and Server-Sent Events as they come.

import { apiKey } from "./store.js";

const BASE = document.baseURI;
const MAX_EVENT = 32 << 20;

/** A refusal or a failure, with the status (0: no answer at all) and when to try again. */
export class ApiError extends Error {
  constructor(message, { status = 0, retryAfter = null, param = null } = {}) {
    super(message);
    Object.assign(this, { status, retryAfter, param });
  }
}

async function ask(path, options = {}) {
  const headers = { ...(options.headers ?? {}) };
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  let reply;
  try {
    reply = await fetch(new URL(path, BASE), { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is it still running?");
  }
  if (!reply.ok) throw await refusal(reply);
  return reply;
}

async function refusal(reply) {
  let error = {};
  try {
    error = (await reply.json()).error ?? {};
  } catch {
    // A proxy's page: the status has to do.
  }
  const after = Number(reply.headers.get("Retry-After"));
  return new ApiError(error.message || `The server answered with status ${reply.status}.`, {
    status: reply.status,
    param: error.param,
    retryAfter: Number.isFinite(after) && after > 0 ? after : null,
  });
}

/** The model that this server has: its name and its context. */
export async function fetchModel() {
  const { data } = await (await ask("v1/models")).json();
  return data[0];
}

/** Layers and experts of the model; null where it has none. */
export async function fetchExperts() {
  const found = await (await ask("v1/experts")).json();
  return found.num_experts ? found : null;
}

/** Send a request body and yield the JSON of each event, until the end or an abort. */
export async function* streamChat(body, signal) {
  const reply = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  for await (const data of eventData(reply.body)) {
    if (data === "[DONE]") return;
    const event = parsed(data);
    if (event.error)
      throw new ApiError(event.error.message ?? "The answer broke off.", { status: 500 });
    yield event;
  }
  throw new ApiError("The connection ended before the answer did.");
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError("The server sent something that is not JSON.", { status: 500 });
  }
}

/** The `data` of Server-Sent Events, however the bytes are cut. */
export async function* eventData(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let lines = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split(/\r\n|\n/);
      rest = parts.pop();
      if (rest.length > MAX_EVENT) throw new ApiError("An event of the answer is too long.");
      for (const line of parts) {
        if (line.startsWith("data:")) lines.push(line.slice(line[5] === " " ? 6 : 5));
        if (line === "" && lines.length) {
          yield lines.join("\n");
          lines = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The request for an answer to `messages`; empty settings are the server's to choose. */
export function requestBody(model, messages, settings, withExperts) {
  const body = {
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
  const numbers = {
    temperature: settings.temperature,
    top_p: settings.topP,
    max_completion_tokens: settings.maxTokens,
    seed: settings.seed,
  };
  for (const [name, text] of Object.entries(numbers)) {
    if (String(text).trim() !== "") body[name] = Number(text);
  }
  if (settings.thinking !== "default") {
    body.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
  }
  if (settings.tools.trim()) body.tools = JSON.parse(settings.tools);
  body.timings = true;
  if (withExperts) {
    // A row of experts for each token of the answer, and what each token's text is.
    Object.assign(body, {
      return_routed_experts: true,
      routed_experts_start_len: -1,
      logprobs: true,
    });
  }
  return body;
}
