// Threads: one OpenMP region per call, so that torch's threads run our stages too. In it one
// driving thread walks a chain of stages, and helpers take tasks of each.
//
// A stage ends when its tasks are done, not when every thread has arrived: a helper whose core
// another program has taken is not waited for, unless it stopped in the middle of a task. Where
// such waits take too much of the time, the next calls run on fewer threads, and all are tried
// again a little later. Results do not depend on any of this: a task's result is its own.
#include <limits.h>
#ifdef _OPENMP
#include <omp.h>

#include "crowding.h"
#endif
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <pthread.h>
#include <sched.h>

#include <algorithm>

#include "internal.h"

namespace ling {
namespace {

// Waiting without a system call: 50 to 150 us, longer than most stages take.
constexpr int kSpins = 4000;

std::atomic<int> wanted{0};  // 0: what OpenMP would take
// OpenMP's threads do not survive a fork, and a child would wait for them without end.
std::atomic<bool> forked{false};
const int at_fork = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });

void pause_core() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Sleeps while `word` is `seen`; may return early.
void sleep_while(std::atomic<uint32_t>& word, uint32_t seen) {
#ifdef __linux__
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr,
          0);
#else
  (void)word, (void)seen;
  sched_yield();
#endif
}

void wake(std::atomic<uint32_t>& word) {
#ifdef __linux__
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr,
          nullptr, 0);
#else
  (void)word;
#endif
}

}  // namespace

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

bool Team::Part::claim(uint32_t* task) {
  uint64_t now = tasks.load(std::memory_order_relaxed);
  while (uint32_t(now) < uint32_t(now >> 32))
    if (tasks.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel,
                                    std::memory_order_relaxed)) {
      *task = uint32_t(now);
      return true;
    }
  return false;
}

Team::Team(int n) : threads(std::min(std::max(n, 1), kMaxThreads)) {}

void Team::stage(int64_t tasks, Body body, void* context) {
  if (threads == 1 || tasks < 2 || tasks > INT32_MAX) {
    for (int64_t i = 0; i < tasks; ++i) body(context, i, 0);
    return;
  }
  body_ = body, context_ = context;
  publish(uint32_t(tasks));
  finish(run_tasks(0));
  wait_until_zero(left_);
}

void Team::publish(uint32_t tasks) {
  left_.store(tasks, std::memory_order_relaxed);
  for (int k = 0; k < threads; ++k) {
    const uint64_t begin = uint64_t(tasks) * unsigned(k) / unsigned(threads);
    const uint64_t end = uint64_t(tasks) * unsigned(k + 1) / unsigned(threads);
    parts_[k].tasks.store(end << 32 | begin, std::memory_order_release);
  }
  stage_.fetch_add(1);
  if (sleepers_.load()) wake(stage_);
}

// Its own part first, a contiguous walk through memory; then it helps the others. Returns how many
// tasks it ran.
uint32_t Team::run_tasks(int thread) {
  uint32_t done = 0, task;
  for (int j = 0; j < threads; ++j)
    for (; parts_[(thread + j) % threads].claim(&task); ++done)
      body_(context_, int64_t(task), thread);
  return done;
}

void Team::finish(uint32_t tasks) {
  if (tasks && left_.fetch_sub(tasks) == tasks && driver_sleeps_.load()) wake(left_);
}

// Asleep after a while, so that the system may give this core to a helper.
void Team::wait_until_zero(std::atomic<uint32_t>& word) {
  for (int i = 0; i < kSpins; ++i) {
    if (!word.load(std::memory_order_acquire)) return;
    pause_core();
  }
  driver_sleeps_.store(true);
  while (const uint32_t left = word.load()) sleep_while(word, left);
  driver_sleeps_.store(false);
}

void Team::help(int thread) {
  helpers_.fetch_add(1);
  for (;;) {
    // In this order, the reverse of end()'s: a helper that saw "not ended", and only then the last
    // number, would sleep on that number for ever.
    const uint32_t seen = stage_.load(std::memory_order_acquire);
    if (ended_.load(std::memory_order_acquire)) break;
    finish(run_tasks(thread));
    for (int i = 0; i < kSpins && stage_.load(std::memory_order_relaxed) == seen; ++i) pause_core();
    if (stage_.load(std::memory_order_acquire) != seen) continue;
    sleepers_.fetch_add(1);
    if (stage_.load() == seen) sleep_while(stage_, seen);
    sleepers_.fetch_sub(1);
  }
  if (helpers_.fetch_sub(1) == 1 && driver_sleeps_.load()) wake(helpers_);
}

void Team::end() {
  ended_.store(true);
  stage_.fetch_add(1);
  if (sleepers_.load()) wake(stage_);
  wait_until_zero(helpers_);
}

void Team::run(void (*entry)(void*, Team&), void* context, int n) {
#ifdef _OPENMP
  static Crowding crowding;
  Team team(n > 1 ? crowding.granted(n) : 1);
  if (team.threads > 1) {
    const double begin = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    double ran = 0;
    // A nested region may have fewer threads: the tasks are done by those that came.
#pragma omp parallel num_threads(team.threads)
    if (omp_get_thread_num()) {
      team.help(omp_get_thread_num());
    } else {
      entry(context, team);
      team.end();
      // OpenMP's own wait for a helper that comes late burns time of this core: not work.
      ran = seconds_of(CLOCK_THREAD_CPUTIME_ID) - cpu;
    }
    crowding.observe(team.threads, seconds_of(CLOCK_MONOTONIC) - begin, ran);
    return;
  }
#else
  (void)n;
  Team team(1);
#endif
  entry(context, team);
}

}  // namespace ling
