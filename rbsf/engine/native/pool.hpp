// Helper threads, started once and shared by all calls of the process.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace rbsf {

class Pool {
  public:
    // Call work(job) once for each job below `jobs`, on the calling thread and at most `threads` -
    // 1 helpers. The caller can finish without any helper, so simultaneous calls from several
    // threads cannot block one another.
    static void run(size_t threads, size_t jobs, const std::function<void(size_t)>& work) {
        Task task(work, jobs);
        const size_t helpers = std::min(threads, jobs) - (jobs > 0);
        if (helpers == 0) {
            for (size_t job = 0; job < jobs; ++job) work(job);
            return;
        }
        get().share(task, helpers);
        if (task.error) std::rethrow_exception(task.error);
    }

  private:
    struct Task {
        const std::function<void(size_t)>& work;
        size_t jobs, helpers = 0;
        std::atomic<size_t> next{0};
        std::exception_ptr error;
        Task(const std::function<void(size_t)>& work, size_t jobs) : work(work), jobs(jobs) {}
    };

    std::mutex mutex;
    std::condition_variable offered, finished;
    std::vector<Task*> offers;  // contains a task once for each helper it may still get
    size_t started = 0;
    long process = process_id();

    // A fork does not copy threads, so a child process starts its own pool. The parent's pool is
    // left unchanged and never destroyed.
    static Pool& get() {
        static std::atomic<Pool*> current{nullptr};
        Pool* pool = current.load();
        if (!pool || pool->process != process_id()) {
            Pool* fresh = new Pool;
            if (current.compare_exchange_strong(pool, fresh)) return *fresh;
            delete fresh;
        }
        return *pool;
    }

    static long process_id() {
#if defined(_WIN32)
        return 0;
#else
        return static_cast<long>(getpid());
#endif
    }

    void share(Task& task, size_t helpers) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            for (; started < helpers; ++started) std::thread(&Pool::help, this).detach();
            offers.insert(offers.end(), helpers, &task);
        }
        offered.notify_all();
        take_jobs(task);
        std::unique_lock<std::mutex> lock(mutex);
        offers.erase(std::remove(offers.begin(), offers.end(), &task), offers.end());
        finished.wait(lock, [&] { return task.helpers == 0; });
    }

    void help() {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            offered.wait(lock, [&] { return !offers.empty(); });
            Task& task = *offers.back();
            offers.pop_back();
            ++task.helpers;
            lock.unlock();
            take_jobs(task);
            lock.lock();
            if (--task.helpers == 0) finished.notify_all();
        }
    }

    void take_jobs(Task& task) {
        try {
            for (size_t job; (job = task.next++) < task.jobs;) task.work(job);
        } catch (...) {
            std::lock_guard<std::mutex> lock(mutex);
            task.error = std::current_exception();
            task.next = task.jobs;
        }
    }
};

}  // namespace rbsf
