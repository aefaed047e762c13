// What csrc/*.cu need of CUDA, for g++: the kernels then run on the host, under sanitizers. g++ includes this
// first.

#ifndef ZOOFLEET_EMULATION_H_
#define ZOOFLEET_EMULATION_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__

struct Index {
    unsigned x, y, z;
};
extern thread_local Index threadIdx, blockIdx;

namespace emulation {

// A kernel by its name: what a thread runs, and the memory that the threads of a block share.
struct Entry {
    void (*run)(const void* arguments, void* shared);
    std::size_t shared_bytes;
};

// Waits for the other threads: `what` and `line` must be the same for all. Returns what `lane` of the warp
// handed in.
uint64_t exchange(unsigned mask, const char* what, int line, uint64_t value, int lane);
void wait_for_block(int line);

// The lane that shuffles down take from lies `step` after this one; past the warp's end each has its own.
inline int lane_below(int step) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    return lane + step < 32 ? lane + step : lane;
}

template <typename T>
T shuffle(unsigned mask, const char* what, int line, T value, int lane) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = exchange(mask, what, line, bits, lane);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace emulation

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int line = __builtin_LINE()) {
    return emulation::shuffle(mask, "__shfl_sync", line, value, lane % 32);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int step, int line = __builtin_LINE()) {
    return emulation::shuffle(mask, "__shfl_down_sync", line, value, emulation::lane_below(step));
}
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    emulation::exchange(mask, "__syncwarp", line, 0, 0);
}
inline void __syncthreads(int line = __builtin_LINE()) { emulation::wait_for_block(line); }

// Threads take turns, so that nothing comes between.
template <typename T>
T atomicAdd(T* address, T value) {
    const T old = *address;
    *address = old + value;
    return old;
}
template <typename T>
T atomicOr(T* address, T value) {
    const T old = *address;
    *address = old | value;
    return old;
}

#define ZOOFLEET_KERNEL(kernel, T)                                              \
    extern "C" const emulation::Entry kernel##_##T;                             \
    const emulation::Entry kernel##_##T = {                                     \
        [](const void* arguments, void*) {                                      \
            zoofleet::run(*static_cast<const zoofleet::kernel<T>*>(arguments)); \
        },                                                                      \
        0};
#define ZOOFLEET_SHARED_KERNEL(kernel, T)                                                            \
    extern "C" const emulation::Entry kernel##_##T;                                                  \
    const emulation::Entry kernel##_##T = {[](const void* arguments, void* shared) {                 \
                                               using Kernel = zoofleet::kernel<T>;                   \
                                               zoofleet::run(*static_cast<const Kernel*>(arguments), \
                                                             *static_cast<Kernel::Shared*>(shared)); \
                                           },                                                        \
                                           sizeof(zoofleet::kernel<T>::Shared)};

#endif  // ZOOFLEET_EMULATION_H_
