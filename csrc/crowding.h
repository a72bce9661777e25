// How many threads the calls of the interface may have while other programs use the cores.
#ifndef LING_CROWDING_H
#define LING_CROWDING_H
#ifdef __linux__
#include <sys/resource.h>
#endif
#include <time.h>

#include <algorithm>
#include <chrono>
#include <mutex>

namespace ling {

inline double seconds_of(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// Judged by the time in which the driving thread did not run: it slept until a helper got its core
// back, or another program had its own core.
class Crowding {
 public:
  int granted(int threads);
  void observe(int threads, double wall_s, double ran_s);

 private:
  // Shorter gaps are the uneven ends of stages.
  static constexpr double kStallS = 300e-6;
  // Stalls are weighed against at least this much time, and count half after kWindowS.
  static constexpr double kLeastS = 0.02, kWindowS = 0.2;
  // How long calls get fewer threads: twice as long each time that they stall soon afterwards.
  static constexpr double kLeastShedS = 0.05, kMostShedS = 1;
  using Clock = std::chrono::steady_clock;
  bool read_from_disk();

  std::mutex lock_;
  int shed_ = 0;
  double seconds_ = 0, stalled_ = 0, shed_for_ = kLeastShedS;
  Clock::time_point until_{};
  long faults_ = -1;
};

inline int Crowding::granted(int threads) {
  const std::lock_guard<std::mutex> guard(lock_);
  if (shed_ && Clock::now() >= until_) shed_ = 0, seconds_ = stalled_ = 0;
  return std::max(1, threads - shed_);
}

// Of n threads one brings about 1/n of the speed: not worth stalls of more than half of that.
inline void Crowding::observe(int threads, double wall_s, double ran_s) {
  const double gap = wall_s - ran_s;
  const std::lock_guard<std::mutex> guard(lock_);
  seconds_ += wall_s;
  if (gap > kStallS && !read_from_disk()) stalled_ += gap;
  if (stalled_ * 2 * threads > std::max(seconds_, kLeastS)) {
    ++shed_;
    until_ = Clock::now() +
             std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(shed_for_));
    shed_for_ = std::min(2 * shed_for_, kMostShedS);
    seconds_ = stalled_ = 0;
  } else if (seconds_ > kWindowS) {
    seconds_ /= 2, stalled_ /= 2;
    if (!shed_) shed_for_ = kLeastShedS;
  }
}

// Weights that come from a disk stop threads, too, and there more threads are of use.
inline bool Crowding::read_from_disk() {
#ifdef __linux__
  rusage usage;
  if (getrusage(RUSAGE_SELF, &usage)) return false;
  const bool more = usage.ru_majflt != faults_;
  faults_ = usage.ru_majflt;
  return more;
#else
  return true;
#endif
}

}  // namespace ling
#endif
