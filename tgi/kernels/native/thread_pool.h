// Threads that share out the units of one task at a time. Nothing here can change a result: units are independent.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels.h"

namespace tgi {

class ThreadPool {
public:
    // `threads` counts the caller of `run`.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // Compute units [0, count); returns when all are done. Callers from several threads at once are served: the one that
    // finds the pool busy computes alone.
    void run(Units units, const void* task, int64_t count);

    // The caller's included.
    int64_t threads() const { return static_cast<int64_t>(threads_.size()) + 1; }

private:
    void work();
    void take_units();

    // Bits: task number | open | threads inside. A thread enters an open task only, so nobody waits for a sleeper.
    static constexpr uint64_t INSIDE = 0xffff;
    static constexpr uint64_t OPEN = 1 << 16;
    static constexpr uint64_t NEXT_TASK = 1 << 17;

    alignas(64) std::atomic<uint64_t> state_{0};
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<int> sleepers_{0};
    std::atomic<bool> stop_{false};
    std::atomic<bool> busy_{false};
    Units units_ = nullptr;
    const void* task_ = nullptr;
    int64_t count_ = 0;
    const int64_t share_;
    std::atomic<bool> waiting_{false};  // the caller sleeps until nobody is inside
    std::mutex done_mutex_;
    std::condition_variable done_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> threads_;
};

}  // namespace tgi
