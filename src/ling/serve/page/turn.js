// One answer: the request, and the node that grows with the events of its stream.

import { ApiError, requestBody, streamChat } from "./api.js";
import { messagesTo } from "./tree.js";

/** Fill `node` (an assistant's, empty) with the answer to what is above it; never throws.
 *
 * `onChange(rowsBefore)` is called after each event. The node ends with `finish`, and with `error`
 * where something failed. */
export async function writeAnswer({
  conversation,
  node,
  model,
  settings,
  trace,
  signal,
  onChange,
}) {
  const clock = { start: performance.now(), first: null, thought: null };
  node.model = model;
  try {
    const messages = messagesTo(conversation, conversation.nodes[node.parent]);
    const body = requestBody(model, messages, settings, trace !== null);
    for await (const event of streamChat(body, signal)) {
      const rows = trace?.rows ?? 0;
      take(node, event, clock, trace);
      onChange(rows);
    }
    node.finish ??= "stop";
  } catch (error) {
    node.finish = error.name === "AbortError" ? "stopped" : "error";
    if (node.finish === "error") node.error = described(error);
  }
  node.writtenAt = Date.now();
}

function take(node, event, clock, trace) {
  const choice = event.choices?.[0];
  if (choice) {
    takeDelta(node, choice.delta ?? {}, clock);
    if (choice.finish_reason) node.finish = choice.finish_reason;
    trace?.add(choice);
  }
  if (event.usage) takeUsage(node, event.usage, clock);
  if (event.timings) takeTimings(node, event.timings);
}

function takeDelta(node, delta, clock) {
  const reasoning = delta.reasoning_content ?? delta.reasoning;
  const isNew = reasoning || delta.content || delta.tool_calls?.length;
  if (!isNew) return;
  clock.first ??= performance.now();
  node.stats = { ...node.stats, firstAfter: (clock.first - clock.start) / 1000 };
  if (reasoning) node.reasoning = (node.reasoning ?? "") + reasoning;
  if ((delta.content || delta.tool_calls) && node.reasoning && clock.thought === null) {
    clock.thought = performance.now();
    node.stats.thoughtFor = (clock.thought - clock.first) / 1000;
  }
  if (delta.content) node.content += delta.content;
  for (const part of delta.tool_calls ?? []) takeCall(node, part);
}

function takeCall(node, part) {
  node.toolCalls ??= [];
  const call = (node.toolCalls[part.index ?? 0] ??= { id: "", name: "", arguments: "" });
  if (part.id) call.id = part.id;
  if (part.function?.name) call.name = part.function.name;
  call.arguments += part.function?.arguments ?? "";
}

function takeUsage(node, usage, clock) {
  const stats = (node.stats ??= {});
  stats.tokens = usage.completion_tokens;
  stats.prompt = usage.prompt_tokens;
  const cached = usage.prompt_tokens_details?.cached_tokens;
  if (cached !== undefined) stats.cached = cached;
  if (clock.first !== null && stats.tokens > 1) {
    const seconds = (performance.now() - clock.first) / 1000;
    if (seconds > 0.02) stats.perSecond = (stats.tokens - 1) / seconds;
  }
}

/** The server's own clock is better than ours, and only it knows about drafts. */
function takeTimings(node, timings) {
  const stats = (node.stats ??= {});
  if (timings.predicted_per_second > 0) stats.perSecond = timings.predicted_per_second;
  if (timings.draft_n > 0) stats.acceptance = (timings.draft_n_accepted ?? 0) / timings.draft_n;
}

function described(error) {
  if (error instanceof SyntaxError)
    return { message: `The tools in the settings are not JSON: ${error.message}`, status: 0 };
  if (!(error instanceof ApiError))
    return { message: `The connection broke: ${error.message}`, status: 0 };
  const { message, status, retryAfter } = error;
  if (status === 401) return { message: "This server asks for an API key.", status };
  if (status === 429)
    return { message: `The server is busy: ${message}.`, status, retryAfter: retryAfter ?? 5 };
  if (status === 503)
    return { message: `Not ready: ${message}.`, status, retryAfter: retryAfter ?? 5 };
  return { message, status, retryAfter };
}
