// Choosing tokens: one task a row. The oracle is infer/sampler.py.
//
// Every filter (top-k, min-p, top-p) keeps a prefix of the ids in the order of falling scores, so
// what is left is given by its last member. That one is found without sorting the vocabulary: by
// the largest scores of blocks (top-k), or by a histogram of masses over the scores, of which only
// the bucket at the border is sorted (top-p). Noise is computed for what is left, and its
// logarithms only for ids that a lower bound does not rule out.
#include "sampling.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "internal.h"

namespace ling {
namespace {

constexpr float kInf = INFINITY;
constexpr double kLog2e = 1.4426950408889634;
constexpr float kLeastScore = -3.402823466e38f;  // every finite score is at least this

struct Saved {
  int32_t id;
  float score;
};

// Scores by index: `ids` says which id each index stands for, null that they are the same.
struct Scores {
  const float* z;
  const int32_t* ids;
  int64_t n;
  const float* largest;  // of every block
  int32_t id(int64_t i) const { return ids ? ids[i] : int32_t(i); }
};

struct Candidate {
  float z;
  int32_t id;
};
// Falling scores; of equal ones the lowest id first.
bool before(const Candidate& a, const Candidate& b) { return a.z != b.z ? a.z > b.z : a.id < b.id; }

// Room for one thread. Buffers grow to the longest vocabulary and stay.
struct Room {
  std::vector<float> masked, values, largest, list_values, list_largest, tops;
  std::vector<int32_t> at, list_ids;
  std::vector<int64_t> hist;
  std::vector<Saved> saved;
  std::vector<Candidate> border;
  std::vector<uint8_t> touched;

  void reserve(int64_t vocab, bool masks, size_t changes) {
    const size_t n = size_t(vocab) + 1, blocks = size_t(ceil_div(vocab, kScoreBlock)) + 1;
    if (masks && masked.size() < n) masked.resize(n);
    for (auto* v : {&values, &list_values})
      if (v->size() < n) v->resize(n);
    for (auto* v : {&at, &list_ids})
      if (v->size() < n) v->resize(n);
    for (auto* v : {&largest, &list_largest, &tops})
      if (v->size() < blocks) v->resize(blocks);
    if (touched.size() < blocks) touched.resize(blocks);
    hist.resize(4 * kMassBuckets);
    saved.reserve(changes);
    border.reserve(n);
  }
};

// ---- a row's scores, changed for the choice and changed back -----------------------------------

class Changes {
 public:
  Changes(Room& room, float* z, int64_t n) : room_(room), z_(z), n_(n) { room.saved.clear(); }
  ~Changes() {
    for (size_t i = room_.saved.size(); i-- > 0;) z_[room_.saved[i].id] = room_.saved[i].score;
  }
  Changes(const Changes&) = delete;
  Changes& operator=(const Changes&) = delete;

  template <class F>
  void change(int32_t id, const F& f) {
    if (id < 0 || id >= n_) return;
    room_.saved.push_back({id, z_[id]});
    z_[id] = f(z_[id]);
  }
  void exclude(const int32_t* ids, int64_t count) {
    for (int64_t i = 0; i < count; ++i) change(ids[i], [](float) { return -kInf; });
  }
  // Whether every changed score is a number that can be compared, or excluded.
  bool sound() const {
    return std::all_of(room_.saved.begin(), room_.saved.end(),
                       [&](const Saved& s) { return z_[s.id] < kInf; });
  }

 private:
  Room& room_;
  float* z_;
  const int64_t n_;
};

// Single precision, one rounding an operation, as the oracle.
float penalised(const ling_choice& c, float z, int32_t count) {
  if (z == -kInf) return z;  // not allowed by the mask
  if (c.repetition_penalty != 1) z = z > 0 ? z / c.repetition_penalty : z * c.repetition_penalty;
  if (count > 0) z -= c.presence_penalty + c.frequency_penalty * float(count);
  return z;
}

bool has_penalty(const ling_choice& c) {
  return c.repetition_penalty != 1 || c.presence_penalty != 0 || c.frequency_penalty != 0;
}

void apply(Changes& changes, const ling_choice& c, const ChooseCall& call) {
  for (int64_t i = 0; i < c.num_bias; ++i)
    changes.change(c.bias_ids[i], [&](float z) { return z + c.bias[i]; });
  if (has_penalty(c))
    for (int64_t i = 0; i < c.num_seen; ++i)
      changes.change(c.seen[i], [&](float z) { return penalised(c, z, c.counts[i]); });
  changes.exclude(c.excluded, c.num_excluded);
  changes.exclude(call.banned, call.num_banned);
}

// The largest scores of the blocks with a change; returns the largest of all.
float refresh(const IsaKernels& k, Room& room, const float* z, int64_t n) {
  const int64_t blocks = ceil_div(n, kScoreBlock);
  std::fill_n(room.touched.begin(), blocks, uint8_t(0));
  for (const Saved& s : room.saved) room.touched[size_t(s.id / kScoreBlock)] = 1;
  float* largest = room.largest.data();
  for (int64_t b = 0; b < blocks; ++b)
    if (room.touched[size_t(b)]) {
      const int64_t begin = b * kScoreBlock;
      k.block_maxima(z + begin, std::min(kScoreBlock, n - begin), largest + b);
    }
  return *std::max_element(largest, largest + blocks);
}

// ---- prefixes of the order ---------------------------------------------------------------------

// The `count` first in order, themselves in no order, as indices into `s` with their scores;
// `at` and `values` have room for s.n + 1. Returns how many there are: no more than have a score.
int64_t first_in_order(const IsaKernels& k, Room& room, const Scores& s, int64_t count) {
  const int64_t blocks = ceil_div(s.n, kScoreBlock);
  float least = kLeastScore;
  if (count <= blocks) {  // as many blocks have one of at least this
    std::copy_n(s.largest, blocks, room.tops.begin());
    const auto nth = room.tops.begin() + (count - 1);
    std::nth_element(room.tops.begin(), nth, room.tops.begin() + blocks, std::greater<float>());
    least = std::max(*nth, kLeastScore);
  }
  const int64_t n = k.gather_scores(s.z, s.n, s.largest, least, room.at.data(), room.values.data());
  room.border.resize(size_t(n));
  for (int64_t i = 0; i < n; ++i) room.border[size_t(i)] = {room.values[i], s.id(room.at[i])};
  if (n > count) {
    std::nth_element(room.border.begin(), room.border.begin() + (count - 1), room.border.end(),
                     before);
    room.border.resize(size_t(count));
  }
  return int64_t(room.border.size());
}

// Scores as whole numbers of the same order, and back.
int32_t in_order(int32_t bits) { return bits < 0 ? INT32_MIN - bits : bits; }
float score_at(int64_t place) {
  const int32_t bits = in_order(int32_t(place));
  float z;
  memcpy(&z, &bits, sizeof z);
  return z;
}

// The smallest score that `keeps`, which is true from some score on. Halving the range bounds the
// work: near 0, where (z - top) · scale is the same for many z, steps of one score take seconds.
template <class F>
float lowest(const F& keeps) {
  int64_t low = in_order(int32_t(0xff7fffff)), high = 0x7f800000;  // kLeastScore and infinity
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (keeps(score_at(middle)))
      high = middle;
    else
      low = middle + 1;
  }
  return score_at(low);
}

// What is left of a row after top-k, min-p and top-p: the scores of at least `least`, and of equal
// ones the ids up to `last_id`.
struct Nucleus {
  Scores s;
  float top, least;
  int32_t last_id;
  bool has(float z, int32_t id) const { return z > least || (z == least && id <= last_id); }
};

void keep_top_k(const IsaKernels& k, Room& room, int64_t count, Nucleus& nucleus) {
  if (count <= 0 || count >= nucleus.s.n) return;
  const int64_t n = first_in_order(k, room, nucleus.s, count);
  for (int64_t i = 0; i < n; ++i)
    room.list_values[size_t(i)] = room.border[size_t(i)].z,
    room.list_ids[size_t(i)] = room.border[size_t(i)].id;
  k.block_maxima(room.list_values.data(), n, room.list_largest.data());
  nucleus.s = {room.list_values.data(), room.list_ids.data(), n, room.list_largest.data()};
}

void keep_min_p(const ling_choice& c, double scale, Nucleus& nucleus) {
  if (c.least_power == -INFINITY) return;
  const double top = nucleus.top;
  nucleus.least = lowest([&](float z) { return (double(z) - top) * scale >= c.least_power; });
}

// The bucket in which the mass reaches `limit`, and the mass before it; -1 where none does.
int64_t border_bucket(const int64_t* hist, int64_t limit, int64_t* mass_before) {
  int64_t sum = 0;
  for (int64_t b = 0; b < kMassBuckets; ++b) {
    int64_t mass = 0;
    for (int64_t i = 0; i < 4; ++i) mass += hist[i * kMassBuckets + b];
    if (sum + mass >= limit) {
      *mass_before = sum;
      return b;
    }
    sum += mass;
  }
  return -1;
}

// The first candidate, in order, with which the mass reaches `limit`, or the last one.
Candidate reach(const IsaKernels& k, const std::vector<Candidate>& sorted, float top, double scale,
                int64_t sum, int64_t limit) {
  const int64_t n = int64_t(sorted.size());
  for (int64_t begin = 0; begin < n; begin += 64) {
    const int64_t m = std::min<int64_t>(64, n - begin);
    float z[64];
    int64_t mass[64];
    for (int64_t i = 0; i < m; ++i) z[i] = sorted[size_t(begin + i)].z;
    k.list_masses(z, m, top, scale, mass);
    for (int64_t i = 0; i < m; ++i)
      if ((sum += mass[i]) >= limit) return sorted[size_t(begin + i)];
  }
  return sorted.back();
}

void keep_top_p(const IsaKernels& k, Room& room, double top_p, double scale, Nucleus& nucleus) {
  if (top_p >= 1) return;
  const Scores& s = nucleus.s;
  const double top = nucleus.top;
  int64_t* hist = room.hist.data();
  std::fill_n(hist, 4 * kMassBuckets, int64_t(0));
  k.add_masses(s.z, s.n, nucleus.top, scale, nucleus.least, hist);
  int64_t total = 0, sum = 0;
  for (int64_t i = 0; i < 4 * kMassBuckets; ++i) total += hist[i];
  // A whole number from here on: as doubles, sums above 2^53 would reach it too early.
  const int64_t limit = int64_t(ceil(top_p * double(total)));
  const int64_t bucket = border_bucket(hist, limit, &sum);
  if (bucket < 0) return;
  const auto first_of = [&](int64_t b) {  // the smallest score in buckets up to b
    if (b >= kMassBuckets - 1) return kLeastScore;
    return lowest([&](float z) { return mass_bucket(mass_power(z, top, scale)) <= b; });
  };
  const float low = std::max(first_of(bucket), nucleus.least);
  const float high = bucket ? first_of(bucket - 1) : kInf;
  const int64_t n = k.gather_scores(s.z, s.n, s.largest, low, room.at.data(), room.values.data());
  room.border.clear();
  for (int64_t i = 0; i < n; ++i)
    if (room.values[size_t(i)] < high)
      room.border.push_back({room.values[size_t(i)], s.id(room.at[size_t(i)])});
  std::sort(room.border.begin(), room.border.end(), before);
  const Candidate last = reach(k, room.border, nucleus.top, scale, sum, limit);
  nucleus.least = last.z, nucleus.last_id = last.id;
}

// ---- noise -------------------------------------------------------------------------------------

double gumbel(uint64_t bits) {
  const double uniform = (double(bits >> 11) + 0.5) / 0x1p53;
  return -log(-log(uniform));
}

// The largest score with noise so far. `bound` is what the lower bounds of kernels/sampling.h must
// not exceed for an id to be as good; a thousandth is room for their rounding.
struct Leader {
  double score = -INFINITY;
  Candidate token = {-kInf, -1};
  float bound = kInf;

  void offer(const Candidate& c, double noisy, double top) {
    if (token.id >= 0 && (noisy < score || (noisy == score && !before(c, token)))) return;
    score = noisy, token = c;
    bound = float(exp(top - noisy) * 1.001);
  }
};

// Offers n scores of a nucleus, with the noise of their ids (null: first, first + 1, ...).
void offer_all(const IsaKernels& k, const ling_choice& c, const Nucleus& nucleus, const float* z,
               const int32_t* ids, int64_t n, Leader& leader) {
  const uint64_t key = noise_key(c.seed, c.position);
  const double inverse = c.inverse_temperature, top = double(nucleus.top) * inverse;
  for (int64_t begin = 0; begin < n; begin += 64) {
    const int64_t m = std::min<int64_t>(64, n - begin);
    uint64_t bits[64];
    float bounds[64];
    const int32_t* part = ids ? ids + begin : nullptr;
    k.noise_bounds(z + begin, part, begin, m, key, nucleus.top, float(inverse), bits, bounds);
    for (int64_t i = 0; i < m; ++i) {
      if (bounds[i] > leader.bound) continue;
      const Candidate candidate = {z[begin + i], part ? part[i] : int32_t(begin + i)};
      if (nucleus.has(candidate.z, candidate.id))
        leader.offer(candidate, double(candidate.z) * inverse + gumbel(bits[i]), top);
    }
  }
}

int64_t sample(const IsaKernels& k, Room& room, const ling_choice& c, const Scores& scores,
               float top) {
  const double scale = c.inverse_temperature * kLog2e;
  Nucleus nucleus = {scores, top, kLeastScore, INT32_MAX};
  keep_top_k(k, room, c.top_k, nucleus);
  keep_min_p(c, scale, nucleus);
  keep_top_p(k, room, c.top_p, scale, nucleus);
  const Scores& s = nucleus.s;
  Leader leader;
  if (nucleus.least == kLeastScore) {
    offer_all(k, c, nucleus, s.z, s.ids, s.n, leader);
  } else {
    const int64_t n =
        k.gather_scores(s.z, s.n, s.largest, nucleus.least, room.at.data(), room.values.data());
    for (int64_t i = 0; i < n; ++i) room.at[size_t(i)] = s.id(room.at[size_t(i)]);
    offer_all(k, c, nucleus, room.values.data(), room.at.data(), n, leader);
  }
  return leader.token.id;
}

// ---- rows --------------------------------------------------------------------------------------

int64_t first_with(const Scores& s, float score) {
  int64_t i = 0;
  while (s.largest[i / kScoreBlock] != score) i += kScoreBlock;
  while (s.z[i] != score) ++i;
  return i;
}

// Sets the id, or the status that says why there is none.
void choose_id(const IsaKernels& k, Room& room, const ChooseCall& call, const ling_choice& c,
               float* z, float top, ling_chosen& out) {
  const int64_t n = call.vocab;
  if (c.mask) {
    k.masked_scores(z, n, c.mask, room.masked.data());
    z = room.masked.data();
    top = k.block_maxima(z, n, room.largest.data()).top;
  }
  Changes changes(room, z, n);
  apply(changes, c, call);
  if (!changes.sound()) {
    out.status = LING_BAD_PENALTY;
    return;
  }
  if (!room.saved.empty()) top = refresh(k, room, z, n);
  const Scores scores = {z, nullptr, n, room.largest.data()};
  if (top == -kInf)
    out.status = LING_NONE_LEFT;
  else if (c.inverse_temperature == 0)
    out.id = first_with(scores, top);
  else
    out.id = sample(k, room, c, scores, top);
}

// Kept apart: beside a huge largest score the logarithm would be lost.
struct Softmax {
  double top = 0, log_sum = 0;
  float logprob(float z) const { return float((double(z) - top) - log_sum); }
};

void list_best(const IsaKernels& k, Room& room, const Scores& s, int64_t count,
               const Softmax& softmax, int32_t* ids, float* logprobs) {
  count = std::min(count, s.n);
  if (count == 0) return;
  first_in_order(k, room, s, count);
  std::sort(room.border.begin(), room.border.end(), before);
  for (int64_t i = 0; i < count; ++i) {
    ids[i] = room.border[size_t(i)].id;
    logprobs[i] = softmax.logprob(room.border[size_t(i)].z);
  }
}

void choose_row(const IsaKernels& k, Room& room, const ChooseCall& call, int64_t r) {
  float* z = call.scores + r * call.vocab;
  const ling_choice& c = call.choices[r];
  ling_chosen& out = call.chosen[r] = {c.given, LING_CHOSEN, 0, 0};
  const BlockMaxima maxima = k.block_maxima(z, call.vocab, room.largest.data());
  if (!maxima.finite) {
    out.status = LING_NOT_FINITE;
    return;
  }
  Softmax softmax;
  if (c.num_best >= 0) {
    softmax = {double(maxima.top), log(k.sum_exp(z, call.vocab, maxima.top))};
    const Scores scores = {z, nullptr, call.vocab, room.largest.data()};
    const int64_t at = r * call.best_stride;
    list_best(k, room, scores, c.num_best, softmax, call.best_ids + at, call.best_logprobs + at);
  }
  if (c.given < 0) choose_id(k, room, call, c, z, maxima.top, out);
  if (c.num_best < 0 || out.status != LING_CHOSEN) return;
  out.logprob = softmax.logprob(z[out.id]);
  out.rank = k.count_above(z, call.vocab, z[out.id]) + 1;
}

}  // namespace

void choose_rows(const ChooseCall& call) {
  // The calling thread keeps the rooms for the next call; helpers only borrow them.
  thread_local std::vector<Room> rooms;
  const int threads = call.rows > 1 ? num_threads() : 1;
  if (rooms.size() < size_t(threads)) rooms.resize(size_t(threads));
  bool masks = false;
  int64_t changes = 0;
  for (int64_t r = 0; r < call.rows; ++r) {
    const ling_choice& c = call.choices[r];
    masks |= c.mask != nullptr;
    changes = std::max(changes, c.num_bias + c.num_seen + c.num_excluded);
  }
  for (int i = 0; i < threads; ++i)
    rooms[size_t(i)].reserve(call.vocab, masks, size_t(changes + call.num_banned));
  const IsaKernels& kernels = *isa_kernels();
  Room* room = rooms.data();
  in_team(threads, [&](Team& team) {
    stage(team, call.rows,
          [&](int64_t r, int thread) { choose_row(kernels, room[thread], call, r); });
  });
}

}  // namespace ling
