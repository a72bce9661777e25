// What the system is told about weights in mapped files: map them in, read experts ahead, evict
// experts that do not stay in memory.
#ifdef __linux__
#include <fcntl.h>
#include <sys/mman.h>
#endif

#include "model.h"

namespace ling {
namespace {

constexpr uintptr_t kSystemPage = 4096;

#ifdef __linux__
void advise(uintptr_t begin, uintptr_t end, int advice) {
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

// f(begin, end, offset in the file) for the four parts of an expert.
template <class F>
void for_parts(const ling_layer& l, const Offload& o, int64_t expert, const F& f) {
  const auto part = [&](const void* stack, int64_t bytes, int64_t offset) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(stack) + uintptr_t(expert * bytes);
    f(begin, begin + uintptr_t(bytes), offset + expert * bytes);
  };
  const ling_matrix* const w[2] = {&l.expert_gate_up, &l.expert_down};
  for (int i = 0; i < 2; ++i) {
    part(w[i]->data, tiles(*w[i]) * tile_bytes(*w[i]), o.offsets[2 * i]);
    part(w[i]->scales, tiles(*w[i]) * tile_scale_bytes(*w[i]), o.offsets[2 * i + 1]);
  }
}

void prefetch_expert(const ling_layer& l, const Offload& o, int64_t expert) {
  for_parts(l, o, expert, [](uintptr_t begin, uintptr_t end, int64_t) {
    advise(begin / kSystemPage * kSystemPage, end, MADV_WILLNEED);
  });
}

void evict_expert(const ling_layer& l, const Offload& o, int64_t expert) {
  for_parts(l, o, expert, [&](uintptr_t begin, uintptr_t end, int64_t offset) {
    // Whole pages: one that is shared with a neighbour stays.
    const uintptr_t first = (begin + kSystemPage - 1) / kSystemPage * kSystemPage;
    const uintptr_t last = end / kSystemPage * kSystemPage;
    if (first >= last) return;
    advise(first, last, MADV_DONTNEED);
    posix_fadvise(o.fd, offset + int64_t(first - begin), int64_t(last - first),
                  POSIX_FADV_DONTNEED);
  });
}
#else
void prefetch_expert(const ling_layer&, const Offload&, int64_t) {}
void evict_expert(const ling_layer&, const Offload&, int64_t) {}
#endif

using Advice = void (*)(const ling_layer&, const Offload&, int64_t expert);

void advise_routed(const ling_model& m, int64_t layer, Advice advice) {
  if (m.offloads.empty() || m.offloads[size_t(layer)].fd < 0) return;
  const Offload& o = m.offloads[size_t(layer)];
  const int64_t* start = m.work.expert_start.data();
  for (int64_t e = 0; e < m.c.num_experts; ++e)
    if (!o.hot[e] && start[e] != start[e + 1]) advice(m.layers[size_t(layer)], o, e);
}

}  // namespace

void prefetch_routed(const ling_model& m, int64_t layer) {
  advise_routed(m, layer, prefetch_expert);
}

void evict_routed(const ling_model& m, int64_t layer) { advise_routed(m, layer, evict_expert); }

void evict_cold(const ling_model& m, int64_t layer) {
  const Offload& o = m.offloads[size_t(layer)];
  for (int64_t e = 0; e < m.c.num_experts; ++e)
    if (!o.hot[e]) evict_expert(m.layers[size_t(layer)], o, e);
}

// For memory that is not touched yet, and for what is not in the page cache yet of a file whose
// file system has large pages: a step reads all of it once, and looking up the addresses of pages
// of 4 KiB takes up to a tenth of that time.
void use_large_pages(const void* data, int64_t bytes) {
#ifdef __linux__
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  advise(begin / kSystemPage * kSystemPage, begin + uintptr_t(bytes), MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

// Ahead of the first read: a fault per 64 KiB would slow the first tokens.
void map_in(const void* data, int64_t bytes) {
#ifdef __linux__
  use_large_pages(data, bytes);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  // MADV_POPULATE_READ; Linux before 5.14 does not know it, and then pages come as they are read.
  advise(begin / kSystemPage * kSystemPage, begin + uintptr_t(bytes), 22);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace ling
