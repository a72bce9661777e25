// The page: which conversation is shown, what is being written, and what its buttons do.

import { fetchExperts, fetchModel } from "./api.js";
import { byId, el } from "./dom.js";
import { MapPanel } from "./map.js";
import { MessageView } from "./message.js";
import { openKey, openSettings } from "./settings.js";
import { Shell } from "./shell.js";
import { Sidebar } from "./sidebar.js";
import { Conversations, apiKey, loadSettings, saveSettings } from "./store.js";
import { Trace } from "./trace.js";
import { addNode, newConversation, shownPath, siblings, switchBranch } from "./tree.js";
import { writeAnswer } from "./turn.js";

const SAVE_MS = 2000;

class App {
  constructor(store) {
    this.store = store;
    this.settings = loadSettings();
    this.model = null;
    this.experts = null;
    /** The answer that is being written: its conversation, node and the way to stop it. */
    this.running = null;
    /** Traces of answers of this visit, by node; they are not saved. */
    this.traces = new Map();
    this.views = new Map();
    this.map = new MapPanel(byId("map"), { onClose: () => this.showMap(false) });
    this.shell = new Shell(this.settings, {
      send: (text) => this.send(text),
      stop: () => this.running?.stop.abort(),
      newChat: () => this.open(newConversation(this.settings.system)),
      editLast: () => this.editLast(),
      openSettings: () => this.openSettings(),
      toggleMap: () => this.showMap(byId("map").hidden),
      change: (settings) => this.change(settings),
      recolour: () => this.map.redraw(),
    });
    this.sidebar = new Sidebar(store, {
      onOpen: (id) => this.open(store.all.get(id)),
      onNew: (removed) => {
        if (removed && removed !== this.conversation.id) this.sidebar.render(this.conversation.id);
        else this.open(newConversation(this.settings.system));
      },
      onProblem: (text) => this.shell.warn(text),
    });
    this.actions = {
      resend: (node, text) => this.ask(node.parent, { role: "user", content: text }),
      regenerate: (node) => this.answer(node.parent),
      retry: (node) => this.retry(node),
      switchBranch: (node, step) => this.switch(node, step),
      showTrace: (node) => this.showMap(true, node),
      wantsResults: (node) => node.id === shownPath(this.conversation).at(-1).id,
      sendResults: (node, results) => this.sendResults(node, results),
    };
    this.open(newConversation(this.settings.system));
    this.connect();
  }

  // ---- the server -----------------------------------------------------------------------------

  async connect() {
    try {
      this.model = await fetchModel();
      this.experts = await fetchExperts().catch(() => null);
      this.shell.warn("");
      byId("model-name").textContent = this.model.id;
      byId("toggle-map").hidden = !this.experts;
      this.showMap(this.settings.showMap && this.experts !== null);
    } catch (error) {
      if (error.status === 401) {
        this.askKey();
        return;
      }
      this.shell.warn(error.status === 503 ? `Not ready yet: ${error.message}.` : error.message);
      setTimeout(() => this.connect(), 1000 * (error.retryAfter ?? 2));
    }
  }

  askKey(then = () => this.connect()) {
    openKey({ isWrong: apiKey() !== "", onKey: then });
  }

  // ---- conversations --------------------------------------------------------------------------

  open(conversation) {
    this.conversation = conversation;
    this.render();
    this.sidebar.render(conversation.id);
    this.map.show(this.lastTrace());
    byId("composer-text").focus();
  }

  lastTrace() {
    const traced = shownPath(this.conversation).findLast((node) => this.traces.has(node.id));
    return traced ? this.traces.get(traced.id) : null;
  }

  async save(conversation = this.conversation) {
    try {
      await this.store.save(conversation);
    } catch {
      this.shell.warn(
        "The browser has no room for this conversation: export it, or delete others.",
      );
    }
  }

  /** Show the way through the tree that is chosen; messages that stay keep their elements. */
  render() {
    const path = shownPath(this.conversation);
    const views = new Map();
    for (const node of path) {
      const listed = siblings(this.conversation, node);
      const view = this.views.get(node.id) ?? new MessageView(node, this.actions);
      views.set(node.id, view);
      view.update({
        isWriting: this.running?.node === node,
        place: { index: listed.indexOf(node), count: listed.length },
        hasTrace: this.traces.has(node.id),
      });
    }
    this.views = views;
    const shown = path.map((node) => views.get(node.id).root);
    byId("thread").replaceChildren(...(shown.length ? shown : [greeting()]));
    this.showContext(path);
    this.shell.toEnd(true);
  }

  showContext(path) {
    const used = path.findLast((node) => node.stats?.prompt)?.stats;
    const most = this.model?.max_model_len;
    byId("context").hidden = !used || !most;
    if (used && most) {
      const count = used.prompt + (used.tokens ?? 0);
      byId("context").textContent =
        `${count.toLocaleString("en")} of ${most.toLocaleString("en")} tokens`;
    }
  }

  openSettings() {
    openSettings({
      settings: this.settings,
      system: this.conversation.system,
      onSave: (changed, system) => {
        this.conversation.system = system;
        if (Object.keys(this.conversation.nodes).length) this.save();
        this.change({ ...changed, system });
        this.shell.showThinking();
        if (!this.model) this.connect();
      },
    });
  }

  change(settings) {
    Object.assign(this.settings, settings);
    saveSettings(this.settings);
  }

  // ---- answers --------------------------------------------------------------------------------

  /** Take a message for the end of what is shown; false while that cannot be. */
  send(text) {
    if (this.running || !this.model) return false;
    this.ask(shownPath(this.conversation).at(-1)?.id ?? null, { role: "user", content: text });
    return true;
  }

  editLast() {
    const last = shownPath(this.conversation).findLast((node) => node.role === "user");
    if (last && !this.running) this.views.get(last.id).edit();
  }

  /** Add a person's message below `parent` and let the model answer. */
  ask(parent, fields) {
    if (this.running) return;
    const node = addNode(this.conversation, parent, fields);
    this.answer(node.id);
  }

  sendResults(node, results) {
    if (this.running) return;
    let parent = node.id;
    node.toolCalls.forEach((call, i) => {
      const fields = { role: "tool", content: results[i], toolCallId: call.id, name: call.name };
      parent = addNode(this.conversation, parent, fields).id;
    });
    this.answer(parent);
  }

  async answer(parent) {
    if (this.running) return;
    const node = addNode(this.conversation, parent, { role: "assistant" });
    await this.write(node);
  }

  retry(node) {
    const again = () => {
      Object.assign(node, {
        content: "",
        reasoning: "",
        toolCalls: undefined,
        error: undefined,
        finish: undefined,
        stats: undefined,
      });
      this.write(node);
    };
    if (this.running) return;
    if (node.error.status === 401) this.askKey(() => this.connect().then(again));
    else again();
  }

  async write(node) {
    const { conversation } = this;
    const stop = new AbortController();
    this.running = { conversation, node, stop };
    const trace = this.experts && this.settings.showMap ? new Trace(this.experts) : null;
    if (trace) this.traces.set(node.id, trace);
    this.save(conversation);
    this.render();
    this.sidebar.render(conversation.id);
    if (trace) this.map.show(trace);
    this.shell.showRunning(true);
    this.shell.speak("The answer is being written.");
    let savedAt = performance.now();
    let rows = 0;
    await writeAnswer({
      conversation,
      node,
      trace,
      model: this.model?.id ?? "",
      settings: this.settings,
      signal: stop.signal,
      onChange: () => {
        this.due ||= requestAnimationFrame(() => {
          this.due = 0;
          this.views.get(node.id)?.update({ isWriting: this.running?.node === node });
          if (trace && this.map.trace === trace) this.map.follow(rows);
          rows = trace?.rows ?? 0;
          this.shell.toEnd();
        });
        if (performance.now() - savedAt > SAVE_MS) {
          savedAt = performance.now();
          this.save(conversation);
        }
      },
    });
    this.running = null;
    this.finish(conversation, node, trace);
  }

  finish(conversation, node, trace) {
    conversation.updated = Date.now();
    this.save(conversation);
    this.views.get(node.id)?.update({ hasTrace: this.traces.has(node.id) });
    if (trace && this.map.trace === trace) this.map.follow();
    this.showContext(shownPath(this.conversation));
    this.sidebar.render(this.conversation.id);
    this.shell.showRunning(false);
    this.shell.toEnd();
    this.shell.speak(node.error ? node.error.message : "The answer is complete.");
    if (node.error?.status === 401) this.retry(node);
  }

  switch(node, step) {
    if (switchBranch(this.conversation, node, step)) {
      this.save();
      const scroll = byId("scroll").scrollTop;
      this.render();
      byId("scroll").scrollTop = scroll;
    }
  }

  /** Show or hide the expert map; new answers are traced only while it is shown. */
  showMap(isShown, node = null) {
    byId("map").hidden = !isShown;
    byId("toggle-map").setAttribute("aria-pressed", String(isShown));
    document.body.classList.toggle("with-map", isShown);
    if (isShown !== this.settings.showMap) this.change({ showMap: isShown });
    if (isShown) this.map.show(node ? this.traces.get(node.id) : this.lastTrace());
  }
}

function greeting() {
  return el(
    "div",
    { class: "greeting" },
    el("h1", { textContent: "What shall we talk about?" }),
    el("p", { textContent: "Everything stays between this browser and your server." }),
  );
}

new App(await Conversations.open());
