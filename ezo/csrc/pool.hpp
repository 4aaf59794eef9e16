// A few threads that wait for work, so that a product of 50 microseconds gains from a second one.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace ezo {

class Pool {
 public:
  // The process's own; after a fork the child starts one of its own.
  static Pool& instance() {
    static std::mutex guard;
    static Pool* pool = nullptr;
    static pid_t owner = 0;
    std::lock_guard<std::mutex> lock(guard);
    if (pool == nullptr || owner != getpid()) {
      pool = new Pool;  // never freed: its threads wait in it until the process ends
      owner = getpid();
    }
    return *pool;
  }

  // Threads that work of about so long is worth: a second one costs some 20 microseconds.
  static int workers(int threads, double nanoseconds, int pieces = INT_MAX) {
    const double worth = std::min(nanoseconds / 20e3, 1e6);
    return std::max(1, std::min({threads, pieces, static_cast<int>(worth)}));
  }

  // What helpers do after their work: wait for more by spinning, or at once by sleeping.
  enum class Then { spin, sleep };

  // work(0) .. work(n - 1), each on a thread of its own, the first on the caller's.
  void run(int n, Then then, const std::function<void(int)>& work) {
    if (n <= 1) return work(0);
    std::lock_guard<std::mutex> one_at_a_time(callers_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (; helpers_ < n - 1; ++helpers_) {
        std::thread(&Pool::help, this, helpers_ + 1, round_.load()).detach();
      }
      work_ = &work;
      active_ = n;
      spins_.store(then == Then::spin ? kSpins : 0);
      left_.store(n - 1);
      round_.store(round_.load() + 1, std::memory_order_release);
    }
    started_.notify_all();
    work(0);
    while (left_.load(std::memory_order_acquire) != 0) relax();
  }

 private:
  void help(int me, unsigned seen) {
    for (;;) {
      // The next product of a step is some microseconds away: waking up would take longer.
      for (int i = 0; i < spins_.load() && round_.load(std::memory_order_acquire) == seen; ++i) relax();
      const std::function<void(int)>* work = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        started_.wait(lock, [&] { return round_ != seen; });
        seen = round_;
        if (me < active_) work = work_;
      }
      if (work != nullptr) {
        (*work)(me);
        left_.fetch_sub(1, std::memory_order_release);
      }
    }
  }

  static constexpr int kSpins = 4000;

  static void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  std::mutex callers_, mutex_;
  std::condition_variable started_;
  const std::function<void(int)>* work_ = nullptr;
  int helpers_ = 0, active_ = 0;
  std::atomic<unsigned> round_{0};
  std::atomic<int> left_{0}, spins_{kSpins};
};

}  // namespace ezo
