// Non-maximum suppression on a CUDA device, in memory linear in the number of boxes and without waiting for
// the device.
//
// As in nms.cpp, candidates come in blocks of falling score: one kernel holds a block against all boxes kept
// so far, one finds which pairs within the block suppress, and one warp walks through the block and appends
// the boxes that stay.

#include <cstdint>

#include "iou.h"
#include "kernels.h"

namespace zoofleet {

template <typename T>
__device__ bool suppresses(const Labelled<T>& better, const Labelled<T>& other, T threshold) {
    if (better.label != other.label) return false;
    const T inter = intersection(better.box, other.box);
    return inter / (area(better.box) + area(other.box) - inter) > threshold;
}

template <typename T>
__device__ void run(const NmsGather<T>& k) {
    const int64_t rank = blockIdx.x * k.kThreads + threadIdx.x;
    if (rank >= k.count) return;
    const int64_t index = k.order[rank];
    k.sorted[rank] = Labelled<T>{k.boxes[index], k.labels ? k.labels[index] : 0};
}

template <typename T>
__device__ void run(const NmsHoldAgainstKept<T>& k) {
    const int64_t i = blockIdx.y * k.kThreads + threadIdx.x;
    const int64_t begin = blockIdx.x * kNmsTile;
    if (i >= k.size) return;
    const int64_t end = begin + kNmsTile < *k.kept ? begin + kNmsTile : *k.kept;
    const Labelled<T> candidate = k.candidates[i];
    for (int64_t at = begin; at < end; ++at) {
        if (suppresses(k.stays[at], candidate, k.threshold)) {
            atomicOr(k.gone + i / 64, 1ull << (i % 64));
            return;
        }
    }
}

template <typename T>
__device__ void run(const NmsFindPairs<T>& k) {
    const int64_t at = blockIdx.x * k.kThreads + threadIdx.x;
    const int64_t i = at / kNmsWords;
    if (i >= k.size) return;
    const int64_t first = at % kNmsWords * 64;
    const int64_t last = first + 64 < k.size ? first + 64 : k.size;
    const Labelled<T> candidate = k.candidates[i];
    unsigned long long bits = 0;
    for (int64_t j = i < first ? first : i + 1; j < last; ++j) {
        if (suppresses(candidate, k.candidates[j], k.threshold)) bits |= 1ull << (j - first);
    }
    k.pairs[at] = bits;
}

template <typename T>
__device__ void run(const NmsWalk<T>& k) {
    const int lane = threadIdx.x;
    unsigned long long mine = k.gone[lane];
    int64_t total = *k.kept;
    for (int64_t i = 0; i < k.size; ++i) {
        const unsigned long long word = __shfl_sync(0xffffffffu, mine, static_cast<int>(i / 64));
        if (word >> (i % 64) & 1) continue;
        mine |= k.pairs[i * kNmsWords + lane];
        if (lane == 0) {
            k.stays[total] = k.candidates[i];
            k.keep[total] = k.order[i];
        }
        ++total;
    }
    __syncwarp();
    if (lane == 0) *k.kept = total;
}

}  // namespace zoofleet

ZOOFLEET_KERNEL(NmsGather, float)
ZOOFLEET_KERNEL(NmsGather, double)
ZOOFLEET_KERNEL(NmsHoldAgainstKept, float)
ZOOFLEET_KERNEL(NmsHoldAgainstKept, double)
ZOOFLEET_KERNEL(NmsFindPairs, float)
ZOOFLEET_KERNEL(NmsFindPairs, double)
ZOOFLEET_KERNEL(NmsWalk, float)
ZOOFLEET_KERNEL(NmsWalk, double)
