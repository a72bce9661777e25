// Threads: one OpenMP region per call, with our own barriers between its stages.
#include "internal.h"
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <pthread.h>
#include <sched.h>

namespace ling {

static std::atomic<int> wanted{0};  // 0: what OpenMP would take
// OpenMP's threads do not survive a fork, and a child would wait for them without end.
static std::atomic<bool> forked{false};
static const int at_fork = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });

int num_threads() {
  (void)at_fork;
#ifdef _OPENMP
  if (forked.load(std::memory_order_relaxed)) return 1;
  const int n = wanted.load(std::memory_order_relaxed);
  return n ? n : omp_get_max_threads();
#else
  return 1;
#endif
}

void set_num_threads(int n) { wanted.store(n, std::memory_order_relaxed); }

static void relax(int spins) {
  // A core that another program needs must not be burned by a waiting thread.
  if (spins > 4000) {
    sched_yield();
    return;
  }
#if defined(__x86_64__)
  _mm_pause();
#endif
}

Team::Team(int n) : threads(n < 1 ? 1 : n > kMaxThreads ? kMaxThreads : n) {}

void Team::barrier() {
  if (threads == 1) return;
  const int seen = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(seen + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; generation_.load(std::memory_order_acquire) == seen; ++spins) relax(spins);
}

void Team::stage(int64_t tasks, Body body, void* context, int thread) {
  if (threads == 1 || tasks == 1) {
    if (thread == 0)
      for (int64_t i = 0; i < tasks; ++i) body(context, i, 0);
    barrier();
    return;
  }
  // Two sets of counters take turns, so that a set is only rewritten when nobody reads it any more.
  Part* parts = parts_[turn_[thread].value];
  turn_[thread].value ^= 1;
  parts[thread].end = tasks * (thread + 1) / threads;
  parts[thread].next.store(tasks * thread / threads, std::memory_order_relaxed);
  barrier();
  for (int k = 0; k < threads; ++k) {
    Part& part = parts[(thread + k) % threads];
    for (;;) {
      const int64_t i = part.next.fetch_add(1, std::memory_order_relaxed);
      if (i >= part.end) break;
      body(context, i, thread);
    }
  }
  barrier();
}

void Team::run(void (*entry)(void*, Team&, int), void* context, int n) {
  Team team(n);
#ifdef _OPENMP
  if (team.threads > 1) {
#pragma omp parallel num_threads(team.threads)
    {
      // Fewer threads than asked for (a nested region) would never meet at a barrier.
      if (omp_get_num_threads() == team.threads) {
        entry(context, team, omp_get_thread_num());
      } else {
#pragma omp single
        {
          Team alone(1);
          entry(context, alone, 0);
        }
      }
    }
    return;
  }
#endif
  Team alone(1);
  entry(context, alone, 0);
}

}  // namespace ling
