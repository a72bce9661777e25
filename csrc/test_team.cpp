// Team's stages under ThreadSanitizer, and how many threads calls get while they stall. OpenMP's
// own barriers are unknown to it, so threads.cpp is built without OpenMP here and the team's
// threads are ours. `test_team THREADS ROUNDS`.
#include <stdio.h>
#include <stdlib.h>

#include <thread>
#include <vector>

#include "crowding.h"
#include "internal.h"

namespace {

struct Work {
  std::vector<int64_t> sizes;                // tasks of each stage
  std::vector<std::vector<int64_t>> values;  // what each task of each stage wrote: plain memory
  std::atomic<int64_t> wrong{0};
};

// A task reads all of what the stage before it wrote, by whichever thread, and writes its own
// value.
void walk(Work& w, ling::Team& team) {
  for (size_t s = 0; s < w.sizes.size(); ++s)
    ling::stage(team, w.sizes[s], [&](int64_t task, int thread) {
      if (thread < 0 || thread >= team.threads) w.wrong.fetch_add(1);
      int64_t sum = 1;
      if (s > 0)
        for (int64_t v : w.values[s - 1]) sum += v != 0;
      if (s > 0 && sum != 1 + w.sizes[s - 1]) w.wrong.fetch_add(1);
      w.values[s][size_t(task)] += sum;
    });
}

bool run(int threads, uint64_t seed) {
  Work w;
  for (int s = 0; s < 40; ++s) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    w.sizes.push_back(int64_t(seed >> 33) % 20);
    w.values.emplace_back(size_t(w.sizes.back()));
  }
  ling::Team team(threads);
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back([&, i] { team.help(i); });
  walk(w, team);
  team.end();
  for (std::thread& t : others) t.join();
  for (size_t s = 0; s < w.sizes.size(); ++s)  // every task ran, and once
    for (int64_t v : w.values[s])
      if (v != 1 + (s ? w.sizes[s - 1] : 0)) return false;
  return w.wrong.load() == 0;
}

// Calls of two threads that end while the helper still looks for tasks: if it goes to sleep then,
// nobody wakes it and the call never returns. No thread yields, so that the two meet often.
void end_short_calls(int calls) {
  std::atomic<ling::Team*> given{nullptr};
  std::atomic<bool> over{false};
  std::thread helper([&] {
    while (!over.load())
      if (ling::Team* team = given.load()) team->help(1), given.store(nullptr);
  });
  for (int call = 0; call < calls; ++call) {
    ling::Team team(2);
    given.store(&team);
    ling::stage(team, call % 3, [](int64_t, int) {});
    team.end();
    while (given.load()) continue;
  }
  over.store(true);
  helper.join();
}

// Ten calls of 2 ms in which the driving thread ran for `ran_s`.
void observe(ling::Crowding& crowding, int threads, double ran_s) {
  for (int i = 0; i < 10; ++i) crowding.observe(threads, 0.002, ran_s);
}

bool sheds_while_calls_stall() {
  ling::Crowding crowding;
  observe(crowding, 4, 0.002);
  if (crowding.granted(4) != 4 || crowding.granted(1) != 1) return false;
  observe(crowding, 4, 0.0018);  // 0.2 ms each: the uneven ends of stages
  if (crowding.granted(4) != 4) return false;
  observe(crowding, 4, 0.001);
  if (crowding.granted(4) >= 4) return false;
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // longer than any shedding
  return crowding.granted(4) == 4;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 2, rounds = argc > 2 ? atoi(argv[2]) : 20;
  for (int i = 0; i < rounds; ++i)
    if (!run(threads, uint64_t(i) + 1))
      return fprintf(stderr, "round %d: a task ran too early, twice or never\n", i), 1;
  if (threads == 2) end_short_calls(200 * rounds);
  if (!sheds_while_calls_stall()) return fprintf(stderr, "crowding: wrong number of threads\n"), 1;
  printf("%d threads: ok\n", threads);
  return 0;
}
