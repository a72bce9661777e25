// Threads: one driving thread walks a chain of stages; the workers of a pool help with the tasks of
// each.
//
// A stage ends when its tasks are done, not when every thread has arrived: a worker whose core
// another program has taken is not waited for, unless it stopped in the middle of a task. A worker
// that makes the driver wait for too much of the time is parked, and tried again a little later.
// Results do not depend on any of this: a task's result is its own.
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <chrono>
#include <new>

#include "internal.h"

namespace ling {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// Waiting without a system call: 50 to 150 us, longer than most stages take.
constexpr int kSpins = 4000;
constexpr microseconds kWakeInterval(50);
// Shorter waits are the uneven ends of stages.
constexpr microseconds kStall(300);
// Stalls are weighed against at least this much time, and forgotten by half after kWindow.
constexpr microseconds kLeastTime(5'000), kWindow(200'000);
// How long a worker stays parked: doubled each time that it stalls again soon afterwards.
constexpr microseconds kParkLeast(50'000), kParkMost(1'000'000);

std::atomic<int> wanted{0};  // 0: one thread for each core this process may use
// Workers do not survive a fork.
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

// The tasks of a stage that one thread walks first: the next one and the end, in one word, so that
// a claim is valid by itself. A worker that slept through some stages claims from the present one.
struct alignas(64) Part {
  std::atomic<uint64_t> tasks{0};  // end << 32 | next
  bool claim(uint32_t* task) {
    uint64_t now = tasks.load(std::memory_order_relaxed);
    while (uint32_t(now) < uint32_t(now >> 32))
      if (tasks.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel,
                                      std::memory_order_relaxed)) {
        *task = uint32_t(now);
        return true;
      }
    return false;
  }
};

struct alignas(64) Worker {
  std::atomic<uint32_t> parked{1};
  std::atomic<bool> asleep{false}, in_task{false};
  // Only the driver touches what follows.
  Clock::time_point since{}, parked_until{};
  Clock::duration stalled{}, park_for = kParkLeast;
};

class Pool {
 public:
  // Null when another call has the pool, or in a forked child: then the caller works alone.
  static Pool* take(int threads);
  void give_back() { taken_.store(false, std::memory_order_release); }
  int threads() const { return threads_.load(std::memory_order_relaxed); }
  void stage(uint32_t tasks, Team::Body body, void* context);

 private:
  static constexpr int kMaxThreads = 256;
  static void* enter(void* worker);
  void start(int wanted_threads);
  void unpark_due();
  void work(int thread);
  void run_tasks(int thread);
  void publish(uint32_t tasks);
  void wake_sleepers();
  void wait_for_workers();
  void judge(const bool* stopped, Clock::duration waited);

  std::atomic<bool> taken_{false};
  std::atomic<int> threads_{1};
  int started_ = 1;
  Team::Body body_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<uint32_t> stage_{0};  // its number; workers sleep on it
  std::atomic<int> sleepers_{0};
  alignas(64) std::atomic<uint32_t> left_{0};  // tasks not done; the driver sleeps on it
  std::atomic<bool> driver_sleeps_{false};
  Part parts_[kMaxThreads];
  Worker workers_[kMaxThreads];
  Clock::time_point woken_{};
};

static Pool pool;

Pool* Pool::take(int threads) {
  if (threads < 2 || forked.load(std::memory_order_relaxed)) return nullptr;
  bool taken = false;
  if (!pool.taken_.compare_exchange_strong(taken, true, std::memory_order_acquire)) return nullptr;
  pool.start(threads < kMaxThreads ? threads : kMaxThreads);
  return &pool;
}

void* Pool::enter(void* worker) {
  pool.work(int(static_cast<Worker*>(worker) - pool.workers_));
  return nullptr;
}

void Pool::start(int wanted_threads) {
  for (; started_ < wanted_threads; ++started_) {
    pthread_t thread;
    // With fewer threads than asked for, the results are the same.
    if (pthread_create(&thread, nullptr, enter, &workers_[started_])) break;
    pthread_detach(thread);
  }
  threads_.store(wanted_threads < started_ ? wanted_threads : started_, std::memory_order_relaxed);
  for (int k = threads(); k < started_; ++k) {
    // The caller has no scratch memory for these: they must not take a task of this call.
    workers_[k].parked.store(1, std::memory_order_release);
    if (!workers_[k].asleep.load(std::memory_order_acquire)) stage_.fetch_add(1), wake(stage_);
    while (!workers_[k].asleep.load(std::memory_order_acquire)) sched_yield();
  }
  unpark_due();
}

void Pool::unpark_due() {
  for (int k = 1; k < threads(); ++k) {
    Worker& w = workers_[k];
    if (!w.parked.load(std::memory_order_relaxed)) continue;
    const Clock::time_point now = Clock::now();
    if (now < w.parked_until) continue;
    w.since = now, w.stalled = {};
    w.parked.store(0, std::memory_order_release);
    wake(w.parked);
  }
}

void Pool::work(int thread) {
  Worker& me = workers_[thread];
  for (;;) {
    while (me.parked.load(std::memory_order_acquire)) {
      me.asleep.store(true, std::memory_order_release);
      sleep_while(me.parked, 1);
      me.asleep.store(false, std::memory_order_release);
    }
    const uint32_t seen = stage_.load(std::memory_order_acquire);
    run_tasks(thread);
    for (int i = 0; i < kSpins && stage_.load(std::memory_order_relaxed) == seen; ++i) pause_core();
    if (stage_.load(std::memory_order_acquire) != seen) continue;
    sleepers_.fetch_add(1);
    if (stage_.load() == seen) sleep_while(stage_, seen);
    sleepers_.fetch_sub(1);
  }
}

// Its own part first, a contiguous walk through memory; then it helps the others.
void Pool::run_tasks(int thread) {
  Worker& me = workers_[thread];
  const int n = threads();
  for (int j = 0; j < n; ++j) {
    uint32_t task;
    while (parts_[(thread + j) % n].claim(&task)) {
      me.in_task.store(true, std::memory_order_relaxed);
      body_(context_, int64_t(task), thread);
      me.in_task.store(false, std::memory_order_relaxed);
      if (left_.fetch_sub(1) == 1 && driver_sleeps_.load()) wake(left_);
    }
  }
}

void Pool::publish(uint32_t tasks) {
  int active = 1;
  for (int k = 1; k < threads(); ++k) active += !workers_[k].parked.load(std::memory_order_relaxed);
  uint64_t begin = 0;
  for (int k = 0, i = 0; k < threads(); ++k) {
    if (k && workers_[k].parked.load(std::memory_order_relaxed)) continue;
    const uint64_t end = uint64_t(tasks) * ++i / active;
    parts_[k].tasks.store(end << 32 | begin, std::memory_order_release);
    begin = end;
  }
  stage_.fetch_add(1);
  if (sleepers_.load()) wake_sleepers();
}

// A call to the system takes as long as a short stage: a worker that falls asleep again and again,
// since its core is taken, is woken now and then only.
void Pool::wake_sleepers() {
  const Clock::time_point now = Clock::now();
  if (now - woken_ < kWakeInterval) return;
  woken_ = now;
  wake(stage_);
}

void Pool::stage(uint32_t tasks, Team::Body body, void* context) {
  body_ = body, context_ = context;
  left_.store(tasks, std::memory_order_relaxed);
  publish(tasks);
  run_tasks(0);
  for (int i = 0; i < kSpins; ++i) {
    if (!left_.load(std::memory_order_acquire)) return;
    pause_core();
  }
  wait_for_workers();
}

// The slow way to the end of a stage: asleep, so that the system may give this core to a worker.
void Pool::wait_for_workers() {
  bool stopped[kMaxThreads];
  for (int k = 1; k < threads(); ++k)
    stopped[k] = workers_[k].in_task.load(std::memory_order_relaxed);
  const Clock::time_point begin = Clock::now();
  driver_sleeps_.store(true);
  while (const uint32_t left = left_.load()) sleep_while(left_, left);
  driver_sleeps_.store(false);
  const Clock::duration waited = Clock::now() - begin;
  if (waited > kStall) judge(stopped, waited);
}

// Of `n` threads, one brings about 1/n of the speed: not worth waits of more than half of that.
void Pool::judge(const bool* stopped, Clock::duration waited) {
  const Clock::time_point now = Clock::now();
  for (int k = 1; k < threads(); ++k) {
    Worker& w = workers_[k];
    if (!stopped[k] || w.parked.load(std::memory_order_relaxed)) continue;
    w.stalled += waited;
    const Clock::duration time = now - w.since;
    if (w.stalled * (2 * threads()) <= (time > kLeastTime ? time : kLeastTime)) {
      if (time > kWindow) w.since = now - time / 2, w.stalled /= 2, w.park_for = kParkLeast;
      continue;
    }
    w.parked.store(1, std::memory_order_release);
    w.parked_until = now + w.park_for;
    w.park_for = w.park_for * 2 < kParkMost ? w.park_for * 2 : Clock::duration(kParkMost);
  }
}

int num_threads() {
  (void)at_fork;
  const int n = wanted.load(std::memory_order_relaxed);
  if (n || forked.load(std::memory_order_relaxed)) return forked.load() ? 1 : n;
#ifdef __linux__
  cpu_set_t cores;
  if (!sched_getaffinity(0, sizeof cores, &cores)) return CPU_COUNT(&cores);
#endif
  return 1;
}

int Team::threads() const { return pool_ ? pool_->threads() : 1; }

void Team::stage(int64_t tasks, Body body, void* context) {
  if (pool_ && tasks > 1 && tasks < INT32_MAX) return pool_->stage(uint32_t(tasks), body, context);
  for (int64_t i = 0; i < tasks; ++i) body(context, i, 0);
}

Team::Team(int threads) : pool_(Pool::take(threads)) {}

Team::~Team() {
  if (pool_) pool_->give_back();
}

void set_num_threads(int n) { wanted.store(n, std::memory_order_relaxed); }

}  // namespace ling
