// Threads for one call. They are started and joined within it: a pool would not survive a fork, and OpenMP's
// would meet torch's own OpenMP runtime in the same process.

#ifndef ZOOFLEET_PARALLEL_H_
#define ZOOFLEET_PARALLEL_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "zoofleet_ops.h"

// Compiles a function once for each instruction set and picks one at load time; elsewhere the baseline
// vectorises.
#if defined(__x86_64__) && defined(__GLIBC__)
#define ZOOFLEET_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ZOOFLEET_CLONES
#endif
#define ZOOFLEET_INLINE inline __attribute__((always_inline))

namespace zoofleet {

// Calls body(begin, end) on up to `threads` contiguous shares of [0, count). The caller's thread takes the
// first share, and those for which no thread could be started.
template <typename Body>
void parallel_for(int64_t threads, int64_t count, const Body& body) {
    const int64_t shares = std::max<int64_t>(1, std::min(threads, count));
    std::vector<std::exception_ptr> errors(static_cast<std::size_t>(shares));
    const auto run = [&](int64_t share) noexcept {
        try {
            body(count * share / shares, count * (share + 1) / shares);
        } catch (...) {
            errors[static_cast<std::size_t>(share)] = std::current_exception();
        }
    };
    std::vector<std::thread> workers;
    workers.reserve(static_cast<std::size_t>(shares - 1));
    int64_t started = 1;
    try {
        for (; started < shares; ++started) workers.emplace_back(run, started);
    } catch (const std::system_error&) {
    }
    run(0);
    for (int64_t share = started; share < shares; ++share) run(share);
    for (std::thread& worker : workers) worker.join();
    for (const std::exception_ptr& error : errors) {
        if (error) std::rethrow_exception(error);
    }
}

// Turns what `call` throws into a status.
template <typename Call>
int32_t guarded(const Call& call) noexcept {
    try {
        return call();
    } catch (const std::bad_alloc&) {
        return ZOOFLEET_OUT_OF_MEMORY;
    } catch (...) {
        return ZOOFLEET_INTERNAL;
    }
}

}  // namespace zoofleet

#endif  // ZOOFLEET_PARALLEL_H_
