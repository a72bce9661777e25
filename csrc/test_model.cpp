// Random small models: the same bits however a sequence is cut, batched and threaded; and every
// wrong configuration, layer, segment, token or pointer refused.
#include "test.h"

namespace {

using ling::kPage;

struct Layer {
  Array<float> input_norm, post_norm, qkv_bias, q_norm, k_norm, dense_bias, expert_bias;
  Array<float> enorm, hnorm, final_norm;
  Array<uint16_t> router;
  Matrix qkv, dense, gate_up, down, expert_gate_up, expert_down, eh_proj;
};

constexpr int64_t kAdapters = 2;

struct LowRank {
  Array<uint16_t> a, b;
};

struct Model {
  ling_model_config c = {};
  std::vector<LowRank> low_ranks;
  std::vector<ling_layer_adapter> adapters;  // [kAdapters, layers]
  std::vector<Layer> parts;
  std::vector<ling_layer> layers;
  Array<float> norm, cos, sin;
  Array<uint8_t> table, kv;
  Array<uint16_t> table_scales;
  Matrix head;
};

Array<float> ones(Random& r, int64_t n) {
  Array<float> x(n);
  for (float& v : x) v = 0.5f + r.uniform();
  return x;
}

Array<float> normals(Random& r, int64_t n) {
  Array<float> x(n);
  for (float& v : x) v = 0.1f * r.normal();
  return x;
}

struct Format {
  int32_t format, group;
};

Format random_format(Random& r) {
  const Format formats[] = {{LING_I3, 32}, {LING_I3, 128}, {LING_I4, 64},  {LING_I4, 32},
                            {LING_I8, 64}, {LING_I8, 16},  {LING_BF16, 2}, {LING_FP8, 128}};
  return r.pick(formats);
}

void random_sizes(Random& r, ling_model_config& c) {
  c.vocab_size = r.between(1, 150);
  c.hidden_size = 32 * r.between(1, 4);
  c.num_layers = r.between(1, 4), c.num_mtp_layers = r.between(0, 2);
  c.num_kv_heads = r.between(1, 2), c.num_heads = c.num_kv_heads * r.between(1, 5);
  c.head_dim = 32 * r.between(1, 3), c.rotary_size = 2 * r.between(1, c.head_dim / 2);
  c.n_group = r.between(1, 3), c.topk_group = r.between(1, c.n_group);
  c.num_experts = r.below(4) ? c.n_group * r.between(2, 7) : 0;
  c.num_experts_per_tok =
      r.between(1, c.num_experts ? c.topk_group * (c.num_experts / c.n_group) : 1);
  c.expert_width = 16 * r.between(1, 4);
  c.max_positions = r.between(100, 400);
  c.rms_norm_eps = 1e-6f, c.routed_scaling_factor = 2.5f, c.norm_topk_prob = int32_t(r.below(2));
  c.num_pages = 3 * ((c.max_positions + kPage - 1) / kPage);
}

void add_layer(Random& r, Model& m, bool mtp) {
  const ling_model_config& c = m.c;
  const int64_t D = c.hidden_size, K = c.head_dim, Q = (c.num_heads + 2 * c.num_kv_heads) * K;
  auto matrix = [&](int64_t rows, int64_t cols, Format k, int64_t stack = 1) {
    return random_matrix(r, k.format, k.group, rows, cols, stack);
  };
  m.parts.emplace_back();
  Layer& p = m.parts.back();
  ling_layer l = {};
  p.input_norm = ones(r, D), p.post_norm = ones(r, D);
  l.input_norm = p.input_norm.data(), l.post_norm = p.post_norm.data();
  l.qkv = (p.qkv = matrix(Q, D, random_format(r))).m;
  l.dense = (p.dense = matrix(D, c.num_heads * K, random_format(r))).m;
  if (r.below(2)) l.qkv_bias = (p.qkv_bias = normals(r, Q)).data();
  if (r.below(2)) l.dense_bias = (p.dense_bias = normals(r, D)).data();
  if (r.below(2)) {
    l.q_norm = (p.q_norm = ones(r, K)).data();
    l.k_norm = (p.k_norm = ones(r, K)).data();
  }
  const Format in = random_format(r);  // one for both of a layer
  l.is_moe = c.num_experts && r.below(3);
  if (!l.is_moe || r.below(2)) {
    const int64_t F = 16 * r.between(1, 8);
    l.gate_up = (p.gate_up = matrix(2 * F, D, in)).m;
    l.down = (p.down = matrix(D, F, random_format(r))).m;
  }
  if (l.is_moe) {
    const int64_t E = c.num_experts, tiles = (E + 15) / 16;
    p.router = Array<uint16_t>(tiles * 16 * D);
    for (uint16_t& w : p.router) w = to_bf16(0.2f * r.normal());
    l.router = p.router.data();
    l.expert_bias = (p.expert_bias = normals(r, E)).data();
    l.expert_gate_up = (p.expert_gate_up = matrix(2 * c.expert_width, D, in, E)).m;
    l.expert_down = (p.expert_down = matrix(D, c.expert_width, random_format(r), E)).m;
  } else {
    l.expert_down.rows = 7;  // never looked at
  }
  if (mtp) {
    l.eh_proj = (p.eh_proj = matrix(D, 2 * D, random_format(r))).m;
    p.enorm = ones(r, D), p.hnorm = ones(r, D), p.final_norm = ones(r, D);
    l.enorm = p.enorm.data(), l.hnorm = p.hnorm.data(), l.final_norm = p.final_norm.data();
  }
  m.layers.push_back(l);
}

// Random matrices beside w, or none; `pair`: of gate and up. Their arrays end with the model.
ling_low_rank random_low_rank(Random& r, Model& m, const ling_matrix& w, bool pair, int64_t stack) {
  ling_low_rank l = {};
  if (!w.rows || !r.below(3)) return l;
  l.rank = r.below(4) ? r.between(1, 20) : r.between(1, ling::kMaxRank);
  l.scales[0] = r.uniform(), l.scales[1] = r.uniform();
  m.low_ranks.emplace_back();
  LowRank& own = m.low_ranks.back();
  own.a = Array<uint16_t>(stack * (pair ? 2 : 1) * l.rank * w.cols);
  own.b = Array<uint16_t>(stack * w.rows * l.rank);
  for (Array<uint16_t>* x : {&own.a, &own.b})
    for (uint16_t& v : *x) v = to_bf16(0.1f * r.normal());
  l.a = own.a.data(), l.b = own.b.data();
  return l;
}

void add_adapters(Random& r, Model& m) {
  const int64_t E = m.c.num_experts;
  for (int64_t i = 0; i < kAdapters * m.c.num_layers; ++i) {
    const ling_layer& l = m.layers[size_t(i % m.c.num_layers)];
    ling_layer_adapter a = {};
    a.qkv = random_low_rank(r, m, l.qkv, false, 1);
    a.dense = random_low_rank(r, m, l.dense, false, 1);
    a.gate_up = random_low_rank(r, m, l.gate_up, true, 1);
    if (l.gate_up.rows) a.down = random_low_rank(r, m, l.down, false, 1);
    if (l.is_moe) {
      a.expert_gate_up = random_low_rank(r, m, l.expert_gate_up, true, E);
      a.expert_down = random_low_rank(r, m, l.expert_down, false, E);
    }
    m.adapters.push_back(a);
  }
}

void add_embedding(Random& r, Model& m) {
  ling_model_config& c = m.c;
  const int64_t n = c.vocab_size * c.hidden_size;
  if (r.below(2)) {
    c.embedding_format = LING_I8, c.embedding_group = int32_t(r.below(2) ? 16 : 32);
    m.table = Array<uint8_t>(n);
    for (uint8_t& b : m.table) b = uint8_t(r.next());
    m.table_scales = Array<uint16_t>(n / c.embedding_group);
    for (uint16_t& s : m.table_scales) s = to_bf16(0.01f * (0.5f + r.uniform()));
    c.embedding_scales = m.table_scales.data();
  } else {
    c.embedding_format = LING_BF16;
    m.table = Array<uint8_t>(2 * n);
    for (int64_t i = 0; i < n; ++i) {
      const uint16_t bits = to_bf16(r.normal());
      memcpy(m.table.data() + 2 * i, &bits, 2);
    }
  }
  c.embedding = m.table.data();
}

Model random_model(Random& r) {
  Model m;
  ling_model_config& c = m.c;
  random_sizes(r, c);
  for (int64_t i = 0; i < c.num_layers + c.num_mtp_layers; ++i) add_layer(r, m, i >= c.num_layers);
  add_adapters(r, m);
  add_embedding(r, m);
  const Format k = random_format(r);
  c.head = (m.head = random_matrix(r, k.format, k.group, c.vocab_size, c.hidden_size)).m;
  c.norm = (m.norm = ones(r, c.hidden_size)).data();
  const int64_t half = c.rotary_size / 2;
  m.cos = Array<float>(c.max_positions * half), m.sin = Array<float>(c.max_positions * half);
  for (int64_t i = 0; i < m.cos.size; ++i) {
    const float angle = float(i / half) / (1 + float(i % half));
    m.cos[i] = cosf(angle), m.sin[i] = sinf(angle);
  }
  c.cos = m.cos.data(), c.sin = m.sin.data();
  const int64_t most = c.head_dim & (c.head_dim - 1) ? 2 : 3;
  const int32_t kv_formats[] = {LING_I8, LING_BF16, LING_I4};
  c.kv_format = kv_formats[r.below(most)];
  const int64_t head = ling::kv_bytes(c.kv_format, c.head_dim);
  const int64_t layers = c.num_layers + c.num_mtp_layers;
  m.kv = Array<uint8_t>(layers * c.num_pages * c.num_kv_heads * 2 * head);
  // What others left in a page must not matter, be it NaN.
  for (uint8_t& byte : m.kv) byte = uint8_t(r.below(2) ? 0xff : r.next());
  c.kv_pages = m.kv.data();
  return m;
}

// One sequence: its tokens, and hidden states once known.
struct Sequence {
  std::vector<int64_t> tokens;
  std::vector<int32_t> pages;
  std::vector<float> hidden, mtp, expert_weights;
  std::vector<int32_t> experts;
  int64_t done = 0, adapter = 0;
};

// Which experts a pass says that its rows took.
struct Traced {
  int64_t layers = 0, A, T;
  Array<int32_t> ids;
  Array<float> weights;

  Traced(const Model& m, int64_t rows) : A(m.c.num_experts_per_tok), T(rows), ids(0), weights(0) {
    for (int64_t i = 0; i < m.c.num_layers; ++i) layers += m.layers[size_t(i)].is_moe;
    ids = Array<int32_t>(layers * T * A + 1), weights = Array<float>(layers * T * A + 1);
    ids[layers * T * A] = -7;
  }
  // Rows [start, stop) of all layers.
  void give(Sequence& s, int64_t start, int64_t stop, int64_t num_experts) const {
    for (int64_t t = start; t < stop; ++t)
      for (int64_t i = 0; i < layers; ++i)
        for (int64_t a = 0; a < A; ++a) {
          const int32_t* row = ids.data() + (i * T + t) * A;
          CHECK(row[a] >= 0 && row[a] < num_experts, "expert %d", int(row[a]));
          for (int64_t b = 0; b < a; ++b) CHECK(row[a] != row[b], "an expert twice");
          s.experts.push_back(row[a]);
          s.expert_weights.push_back(weights.data()[(i * T + t) * A + a]);
        }
    CHECK(ids.data()[layers * T * A] == -7, "more than there is room for");
  }
};

Sequence random_sequence(Random& r, const Model& m, int32_t first_page) {
  Sequence s;
  s.adapter = r.between(0, kAdapters);
  const int64_t n = r.between(1, m.c.max_positions);
  for (int64_t i = 0; i < n; ++i) s.tokens.push_back(r.below(m.c.vocab_size));
  const int64_t pages = m.c.num_pages / 3;
  for (int64_t i = 0; i < pages; ++i) s.pages.push_back(first_page + int32_t(i));
  for (size_t i = s.pages.size() - 1; i > 0; --i)
    std::swap(s.pages[i], s.pages[size_t(r.below(int64_t(i) + 1))]);
  return s;
}

// Some more rows of some of the sequences in one pass.
void advance(Random& r, ling_model* model, const Model& m, std::vector<Sequence*> live) {
  const int64_t D = m.c.hidden_size;
  std::vector<ling_segment> segments;
  Array<int64_t> tokens, next;
  std::vector<int64_t> ids, after;
  for (Sequence* s : live) {
    const int64_t left = int64_t(s->tokens.size()) - s->done;
    const int64_t n = r.below(3) ? r.between(1, left < 40 ? left : 40) : left;
    const int64_t start = int64_t(ids.size()), end = s->done + n;
    segments.push_back({s->done, start, start + n, s->pages.data(), (end + kPage - 1) / kPage,
                        s->adapter});
    for (int64_t i = s->done; i < end; ++i) {
      ids.push_back(s->tokens[size_t(i)]);
      after.push_back(s->tokens[size_t(i + 1) % s->tokens.size()]);
    }
    s->done = end;
  }
  const int64_t T = int64_t(ids.size());
  Array<float> hidden(T * D, 1), mtp(T * D, 1);
  Traced traced(m, T);
  if (r.below(2)) {  // refused, and so taken back
    CHECK(!ling_trace_experts(model, traced.ids.data(), traced.weights.data(), T - 1), "trace");
    refused(ling_forward(model, ids.data(), T, segments.data(), int64_t(segments.size()),
                         hidden.data()),
            "rows of the trace");
  }
  CHECK(!ling_trace_experts(model, traced.ids.data(), traced.weights.data(), T), "trace");
  CHECK(
      !ling_forward(model, ids.data(), T, segments.data(), int64_t(segments.size()), hidden.data()),
      "forward");
  if (m.c.num_mtp_layers)
    CHECK(!ling_mtp(model, m.c.num_mtp_layers - 1, after.data(), hidden.data(), T, segments.data(),
                    int64_t(segments.size()), mtp.data()),
          "mtp");
  for (size_t i = 0; i < live.size(); ++i)
    for (int64_t j = segments[i].start * D; j < segments[i].stop * D; ++j) {
      CHECK(isfinite(hidden[j]) && isfinite(mtp[j]), "not finite");
      live[i]->hidden.push_back(hidden[j]), live[i]->mtp.push_back(mtp[j]);
    }
  for (size_t i = 0; i < live.size(); ++i)
    traced.give(*live[i], segments[i].start, segments[i].stop, m.c.num_experts);
}

// A row of scores depends on nothing but its own hidden state.
void check_logits(Random& r, ling_model* model, const Model& m, const std::vector<float>& hidden) {
  const int64_t D = m.c.hidden_size;
  const int64_t V = r.below(2) ? m.c.vocab_size : r.between(1, m.c.vocab_size);
  const int64_t have = int64_t(hidden.size()) / D, rows = have < 9 ? have : 9;
  Array<float> all(rows * V, 1), one(V);
  CHECK(!ling_logits(model, hidden.data(), rows, V, all.data()), "logits");
  for (int64_t i = 0; i < rows; ++i) {
    CHECK(!ling_logits(model, hidden.data() + i * D, 1, V, one.data()), "logits");
    CHECK(!memcmp(one.data(), all.data() + i * V, size_t(V) * 4), "row alone");
  }
}

void bad_passes(Random& r, ling_model* model, const Model& m) {
  const int64_t D = m.c.hidden_size, T = 3;
  Array<int64_t> tokens(T);
  Array<float> hidden(T * D), out(T * D), logits(T * m.c.vocab_size);
  std::vector<int32_t> pages = {0, 1};
  const ling_segment good = {2, 0, T, pages.data(), 2, 0};
  auto forward = [&](ling_segment s) {
    if (m.c.num_mtp_layers)
      refused(ling_mtp(model, 0, tokens.data(), hidden.data(), T, &s, 1, out.data()), "a segment");
    refused(ling_forward(model, tokens.data(), T, &s, 1, out.data()), "a segment");
  };
  for (int64_t bad : {int64_t(-1), INT64_MIN, INT64_MAX, INT64_MAX - 1, m.c.max_positions,
                      m.c.max_positions - 2}) {
    ling_segment s = good;
    s.first = bad;
    forward(s);
    s = good, s.start = bad;
    forward(s);
    s = good, s.stop = bad;
    forward(s);
  }
  for (int64_t bad : {int64_t(0), int64_t(-1), INT64_MIN, int64_t(1) << 58}) {
    ling_segment s = good;
    if (bad > 0) s.first = INT64_MAX / 2;  // that many pages would do if the product wrapped
    s.num_pages = bad;
    forward(s);
  }
  for (int64_t bad : {int64_t(-1), kAdapters + 1, INT64_MAX, INT64_MIN}) {
    ling_segment s = good;
    s.adapter = bad;
    forward(s);
  }
  ling_segment none = good;
  none.pages = nullptr;
  forward(none);
  for (int32_t bad : {-1, INT32_MIN, INT32_MAX, int32_t(m.c.num_pages)}) {
    pages[0] = bad;
    forward(good);
    pages[0] = 0;
  }
  const ling_segment two[] = {{0, 0, 2, pages.data(), 2, 0}, {0, 1, 3, pages.data(), 2, 0}};
  refused(ling_forward(model, tokens.data(), T, two, 2, out.data()), "overlap");
  for (int64_t n : {int64_t(0), int64_t(-1), INT64_MIN})
    refused(ling_forward(model, tokens.data(), T, &good, n, out.data()), "no segments");
  for (int64_t bad : {int64_t(-1), m.c.vocab_size, INT64_MAX, INT64_MIN}) {
    tokens[r.below(T)] = bad;
    refused(ling_forward(model, tokens.data(), T, &good, 1, out.data()), "token");
    if (m.c.num_mtp_layers)
      refused(ling_mtp(model, 0, tokens.data(), hidden.data(), T, &good, 1, out.data()), "token");
    for (int64_t& t : tokens) t = 0;
    refused(
        ling_forward(model, tokens.data(), bad == m.c.vocab_size ? 0 : bad, &good, 1, out.data()),
        "T");
  }
  refused(ling_forward(nullptr, tokens.data(), T, &good, 1, out.data()), "null");
  refused(ling_forward(model, nullptr, T, &good, 1, out.data()), "null");
  refused(ling_forward(model, tokens.data(), T, nullptr, 1, out.data()), "null");
  refused(ling_forward(model, tokens.data(), T, &good, 1, nullptr), "null");
  for (int64_t j : {int64_t(-1), m.c.num_mtp_layers, INT64_MAX, INT64_MIN})
    refused(ling_mtp(model, j, tokens.data(), hidden.data(), T, &good, 1, out.data()), "MTP layer");
  refused(ling_mtp(model, 0, tokens.data(), nullptr, T, &good, 1, out.data()), "null");
  refused(ling_mtp(model, 0, tokens.data(), hidden.data(), T, &good, 1, nullptr), "null");
  for (int64_t bad : {int64_t(-1), INT64_MAX, INT64_MIN, m.c.vocab_size + 1})
    refused(ling_logits(model, hidden.data(), T, bad, logits.data()), "vocab");
  for (int64_t bad : {int64_t(0), int64_t(-1), INT64_MAX})
    refused(ling_logits(model, hidden.data(), bad, 0, logits.data()), "rows");
  refused(ling_logits(model, nullptr, T, 0, logits.data()), "null");
  refused(ling_logits(model, hidden.data(), T, 0, nullptr), "null");
  refused(ling_expert_counts(model, nullptr), "null");
  int32_t id;
  float weight;
  refused(ling_trace_experts(nullptr, &id, &weight, 1), "null");
  refused(ling_trace_experts(model, nullptr, &weight, 1), "null");
  refused(ling_trace_experts(model, &id, nullptr, 1), "null");
  refused(ling_trace_experts(model, &id, &weight, -1), "rows");
  int64_t small = 1;
  const char* name;
  double seconds;
  refused(ling_profile(model, &name, &seconds, &small), "too few slots");
}

void bad_adapters(ling_model* model, const Model& m) {
  const int64_t n = kAdapters;
  refused(ling_model_adapters(nullptr, m.adapters.data(), n), "null");
  refused(ling_model_adapters(model, nullptr, n), "null");
  for (int64_t bad : {int64_t(-1), INT64_MAX, INT64_MIN, int64_t(1) << 40})
    refused(ling_model_adapters(model, m.adapters.data(), bad), "number of adapters");
  auto change = [&](auto edit) {
    std::vector<ling_layer_adapter> adapters = m.adapters;
    edit(adapters.back().qkv);
    refused(ling_model_adapters(model, adapters.data(), n), "an adapter");
  };
  for (int64_t bad : {int64_t(-1), ling::kMaxRank + 1, INT64_MAX, INT64_MIN})
    change([&](ling_low_rank& l) { l.rank = bad; });
  change([](ling_low_rank& l) { l.rank = 1, l.a = nullptr; });
  change([](ling_low_rank& l) { l.rank = 1, l.b = nullptr; });
  std::vector<ling_layer_adapter> adapters = m.adapters;
  const size_t last = size_t(m.c.num_layers - 1);
  if (m.layers[last].is_moe) return;
  const uint16_t value = 0;
  adapters[last].expert_down = {1, {1, 1}, &value, &value};
  refused(ling_model_adapters(model, adapters.data(), n), "of a matrix that is not there");
}

void try_config(const ling_model_config& c, const std::vector<ling_layer>& layers) {
  ling_model* model = nullptr;
  if (!ling_model_new(&c, layers.data(), &model)) ling_model_free(model);
}

void must_refuse(const ling_model_config& c, const std::vector<ling_layer>& layers,
                 const char* what) {
  ling_model* model = nullptr;
  refused(ling_model_new(&c, layers.data(), &model), what);
  CHECK(!model, "a refused model was made");
}

void bad_models(const Model& m) {
  ling_model* model = nullptr;
  refused(ling_model_new(nullptr, m.layers.data(), &model), "null");
  refused(ling_model_new(&m.c, nullptr, &model), "null");
  refused(ling_model_new(&m.c, m.layers.data(), nullptr), "null");
  const int64_t bad[] = {-1, INT64_MIN, INT64_MAX, (int64_t(1) << 58) + 1, int64_t(1) << 32};
  int64_t ling_model_config::* const sizes[] = {
      &ling_model_config::vocab_size,  &ling_model_config::hidden_size,
      &ling_model_config::num_layers,  &ling_model_config::num_mtp_layers,
      &ling_model_config::num_heads,   &ling_model_config::num_kv_heads,
      &ling_model_config::head_dim,    &ling_model_config::rotary_size,
      &ling_model_config::num_experts, &ling_model_config::num_pages};
  for (auto field : sizes)
    for (int64_t value : bad) {
      ling_model_config c = m.c;
      c.*field = value;
      must_refuse(c, m.layers, "a size");
    }
  int64_t ling_model_config::* const others[] = {
      &ling_model_config::num_experts_per_tok, &ling_model_config::n_group,
      &ling_model_config::topk_group, &ling_model_config::expert_width,
      &ling_model_config::max_positions};
  for (auto field : others)
    for (int64_t value : bad) {
      ling_model_config c = m.c;
      c.*field = value;
      try_config(c, m.layers);
    }
  const void* ling_model_config::* const table = &ling_model_config::embedding;
  ling_model_config c = m.c;
  c.*table = nullptr;
  must_refuse(c, m.layers, "embedding");
  const float* ling_model_config::* const floats[] = {
      &ling_model_config::norm, &ling_model_config::cos, &ling_model_config::sin};
  for (auto field : floats) c = m.c, c.*field = nullptr, must_refuse(c, m.layers, "null");
  c = m.c, c.kv_pages = nullptr, must_refuse(c, m.layers, "null");
  c = m.c, c.kv_pages = static_cast<uint8_t*>(c.kv_pages) + 2;
  must_refuse(c, m.layers, "alignment");
  for (int32_t format : {0, 4, 5, -1})
    c = m.c, c.kv_format = format, must_refuse(c, m.layers, "KV format");
  if (c = m.c, c.head_dim & (c.head_dim - 1))
    c.kv_format = LING_I4, must_refuse(c, m.layers, "KV format of these heads");
  for (int32_t format : {0, 1, -1})
    c = m.c, c.embedding_format = format, must_refuse(c, m.layers, "embedding");
  for (int32_t group : {0, -16, 8, 24, INT32_MAX}) {
    c = m.c, c.embedding_format = LING_I8, c.embedding_scales = m.table.data(),
    c.embedding_group = group;
    must_refuse(c, m.layers, "embedding group");
  }
  c = m.c, c.head.rows += 1;
  must_refuse(c, m.layers, "head");
  for (size_t i = 0; i < m.layers.size(); ++i) {
    auto change = [&](auto edit) {
      std::vector<ling_layer> layers = m.layers;
      edit(layers[i]);
      must_refuse(m.c, layers, "a layer");
    };
    change([](ling_layer& l) { l.input_norm = nullptr; });
    change([](ling_layer& l) { l.post_norm = nullptr; });
    change([](ling_layer& l) { l.k_norm = l.q_norm ? nullptr : l.input_norm; });
    change([](ling_layer& l) { l.qkv.rows -= 1; });
    change([](ling_layer& l) { l.qkv.data = nullptr; });
    change([](ling_layer& l) { l.dense = ling_matrix{}; });
    change([](ling_layer& l) { l.dense.group = 17; });
    change([](ling_layer& l) {
      l.gate_up.rows -= 16;
      l.gate_up.rows *= -1;
    });
    if (m.layers[i].gate_up.rows) change([](ling_layer& l) { l.down.cols += 1; });
    if (!m.layers[i].is_moe && !m.c.num_experts) change([](ling_layer& l) { l.is_moe = 1; });
    if (m.layers[i].is_moe) {
      change([](ling_layer& l) { l.router = nullptr; });
      change([](ling_layer& l) { l.expert_bias = nullptr; });
      change([](ling_layer& l) { l.expert_gate_up.cols += 1; });
      change([](ling_layer& l) { l.expert_down.format = 9; });
    }
    if (int64_t(i) >= m.c.num_layers) {
      change([](ling_layer& l) { l.eh_proj.rows = 0; });
      change([](ling_layer& l) { l.enorm = nullptr; });
      change([](ling_layer& l) { l.hnorm = nullptr; });
      change([](ling_layer& l) { l.final_norm = nullptr; });
    }
  }
}

void check_counts(ling_model* model, const Model& m, int64_t tokens) {
  const int64_t E = m.c.num_experts, n = m.c.num_layers + m.c.num_mtp_layers;
  Array<int64_t> counts(n * E);
  CHECK(!ling_expert_counts(model, counts.data()), "counts");
  for (int64_t i = 0; i < m.c.num_layers; ++i) {
    int64_t sum = 0;
    for (int64_t e = 0; e < E; ++e) sum += counts[i * E + e];
    CHECK(sum == (m.layers[size_t(i)].is_moe ? tokens * m.c.num_experts_per_tok : 0),
          "counts of layer %d", int(i));
  }
}

}  // namespace

void fuzz_models(uint64_t seed, int64_t rounds) {
  for (int64_t round = 0; round < rounds; ++round) {
    Random r = {seed * 1000003 + uint64_t(round)};
    Model m = random_model(r);
    ling_model* model = nullptr;
    CHECK(!ling_model_new(&m.c, m.layers.data(), &model), "new");
    CHECK(!ling_model_adapters(model, m.adapters.data(), kAdapters), "adapters");
    bad_adapters(model, m);
    bad_passes(r, model, m);
    int64_t tokens = 0;
    std::vector<Sequence> first, second;
    for (int32_t i = 0; i < 3; ++i)
      first.push_back(random_sequence(r, m, i * int32_t(m.c.num_pages / 3)));
    second = first;
    ling_set_num_threads(1);
    for (Sequence& s : first) {
      while (s.done < int64_t(s.tokens.size())) advance(r, model, m, {&s});
      tokens += int64_t(s.tokens.size());
    }
    check_counts(model, m, tokens);
    ling_set_num_threads(int(r.between(1, 3)));
    for (;;) {
      std::vector<Sequence*> live;
      for (Sequence& s : second)
        if (s.done < int64_t(s.tokens.size()) && r.below(4)) live.push_back(&s);
      if (!live.empty()) advance(r, model, m, live);
      bool left = false;
      for (Sequence& s : second) left |= s.done < int64_t(s.tokens.size());
      if (!left) break;
    }
    for (size_t i = 0; i < first.size(); ++i)
      CHECK(first[i].hidden == second[i].hidden && first[i].mtp == second[i].mtp,
            "seed %d round %d: sequence %d depends on its batch", int(seed), int(round), int(i));
    for (size_t i = 0; i < first.size(); ++i)
      CHECK(first[i].experts == second[i].experts &&
                first[i].expert_weights == second[i].expert_weights,
            "seed %d round %d: experts of sequence %d", int(seed), int(round), int(i));
    check_logits(r, model, m, first[0].hidden);
    bad_models(m);
    ling_model_free(model);
  }
}
