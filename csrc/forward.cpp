// A whole model in one call: embedding, layers, final norm; and the head. One team per
// call, and in it a chain of stages, so that Python pays for one call a step. The residual stream
// and everything between two products is float32.
#include "attention_part.h"
#include "moe_part.h"

namespace ling {
namespace {

// Runs f(pass) with a team.
template <class F>
void run_pass(ling_model& m, int threads, int64_t T, const ling_segment* segments, int64_t n,
              Trace trace, const F& f) {
  in_team(threads, [&](Team& team) {
    Pass pass = {m, team, T, segments, n, trace};
    f(pass);
  });
}

// Once a call: room is made for as many threads as then run.
int reserve(ling_model& m, int64_t T) {
  const int threads = num_threads();
  m.work.reserve(m.c, m.layers, *m.kernels, T, threads);
  return threads;
}

void embed_token(const ling_model& m, int64_t id, float* y) {
  const ling_model_config& c = m.c;
  const int64_t D = c.hidden_size;
  if (c.embedding_format == LING_I8) {
    const int8_t* q = static_cast<const int8_t*>(c.embedding) + id * D;
    const uint16_t* scales = static_cast<const uint16_t*>(c.embedding_scales);
    m.kernels->embed_i8(q, scales + id * (D / c.embedding_group), D, c.embedding_group, y);
    return;
  }
  const uint16_t* e = static_cast<const uint16_t*>(c.embedding) + id * D;
  for (int64_t i = 0; i < D; ++i) y[i] = from_bf16(e[i]);
}

void embed(Pass& p, const int64_t* tokens, float* to, int64_t stride) {
  p.run(p.T, [&](int64_t t, int) { embed_token(p.m, tokens[t], to + t * stride); });
}

void layer(Pass& p, int64_t i) {
  const ling_layer& l = p.m.layers[size_t(i)];
  attention_part(p, l, i);
  mlp_part(p, l, i);
}

void final_norm(Pass& p, const float* weight, float* out) {
  const int64_t D = p.c().hidden_size;
  p.run(p.T, [&](int64_t t, int) {
    p.m.kernels->rms_norm(p.work().x.data() + t * D, weight, p.c().rms_norm_eps, D, out + t * D);
  });
  p.spent(kPrepare);
}

// The normed embedding and the normed hidden state of every row, side by side, through eh_proj.
void join_mtp(Pass& p, const ling_layer& l, const int64_t* next_tokens, const float* hidden) {
  Workspace& work = p.work();
  const int64_t D = p.c().hidden_size;
  const float eps = p.c().rms_norm_eps;
  float* both = work.both.data();
  embed(p, next_tokens, both, 2 * D);
  p.run(p.T, [&](int64_t t, int) {
    float* row = both + t * 2 * D;
    p.m.kernels->rms_norm(row, l.enorm, eps, D, row);
    p.m.kernels->rms_norm(hidden + t * D, l.hnorm, eps, D, row + D);
    work.in.put(*p.m.kernels, l.eh_proj, t, row);
  });
  p.spent(kPrepare);
  p.multiply(
      {l.eh_proj, p.T, work.in.rows.data(), work.x_ptr.data(), nullptr, nullptr, Epilogue::kStore});
  p.spent(kDense);
}

}  // namespace

void forward(ling_model& m, const int64_t* tokens, int64_t T, const ling_segment* segments,
             int64_t num_segments, float* hidden, Trace trace) {
  const int threads = reserve(m, T);
  plan_attention(m, segments, num_segments);
  const bool has_adapters = assign_adapters(m, segments, num_segments, T);
  run_pass(m, threads, T, segments, num_segments, trace, [&](Pass& pass) {
    pass.has_adapters = has_adapters;
    embed(pass, tokens, m.work.x.data(), m.c.hidden_size);
    for (int64_t i = 0; i < m.c.num_layers; ++i) layer(pass, i);
    final_norm(pass, m.c.norm, hidden);
  });
}

void mtp(ling_model& m, int64_t j, const int64_t* next_tokens, const float* hidden_in, int64_t T,
         const ling_segment* segments, int64_t num_segments, float* hidden_out) {
  const int64_t at = m.c.num_layers + j;
  const ling_layer& l = m.layers[size_t(at)];
  const int threads = reserve(m, T);
  m.work.both.reserve(T * 2 * m.c.hidden_size);
  plan_attention(m, segments, num_segments);
  run_pass(m, threads, T, segments, num_segments, {}, [&](Pass& pass) {
    join_mtp(pass, l, next_tokens, hidden_in);
    layer(pass, at);
    final_norm(pass, l.final_norm, hidden_out);
  });
}

void logits(ling_model& m, const float* hidden, int64_t rows, int64_t vocab, float* logits) {
  ling_matrix head = m.c.head;
  if (vocab) head.rows = vocab;
  const int64_t V = head.rows, D = m.c.hidden_size;
  const int threads = reserve(m, 1);
  m.work.in.reserve(head, rows);
  float** y = m.work.head_ptr.reserve(rows);
  for (int64_t r = 0; r < rows; ++r) y[r] = logits + r * V;
  run_pass(m, threads, rows, nullptr, 0, {}, [&](Pass& pass) {
    pass.run(rows, [&](int64_t r, int) { m.work.in.put(*m.kernels, head, r, hidden + r * D); });
    pass.multiply({head, rows, m.work.in.rows.data(), y, nullptr, nullptr, Epilogue::kStore});
    pass.spent(kHead);
  });
}

}  // namespace ling
