// Non-maximum suppression on a CUDA device, in memory linear in the number of boxes and without waiting for
// the device.
//
// As in nms.cpp, candidates come in blocks of falling score: one kernel holds a block against all boxes kept
// so far, one finds which pairs within the block suppress, and one warp walks through the block and appends
// the boxes that stay.

#include <cstdint>

#include "cuda_status.h"
#include "iou.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

constexpr int64_t kWords = 32;           // one for each lane of the warp that walks
constexpr int64_t kBlock = kWords * 64;  // candidates in a block: a bit each
constexpr int64_t kTile = 1024;          // kept boxes that one thread holds its candidate against
constexpr int64_t kThreads = 256;

template <typename T>
struct Labelled {
    Box<T> box;
    int64_t label;
};

template <typename T>
__device__ bool suppresses(const Labelled<T>& better, const Labelled<T>& other, T threshold) {
    if (better.label != other.label) return false;
    const T inter = intersection(better.box, other.box);
    return inter / (area(better.box) + area(other.box) - inter) > threshold;
}

template <typename T>
__global__ void gather(const Box<T>* boxes, const int64_t* order, const int64_t* labels, int64_t count,
                       Labelled<T>* sorted) {
    const int64_t rank = blockIdx.x * kThreads + threadIdx.x;
    if (rank >= count) return;
    const int64_t index = order[rank];
    sorted[rank] = Labelled<T>{boxes[index], labels ? labels[index] : 0};
}

// Sets the bit in `gone` of each of the `size` candidates that a kept box suppresses.
template <typename T>
__global__ void hold_against_kept(const Labelled<T>* candidates, int64_t size, const Labelled<T>* stays,
                                  const int64_t* kept, T threshold, unsigned long long* gone) {
    const int64_t i = blockIdx.y * kThreads + threadIdx.x;
    const int64_t begin = blockIdx.x * kTile;
    if (i >= size) return;
    const int64_t end = begin + kTile < *kept ? begin + kTile : *kept;
    const Labelled<T> candidate = candidates[i];
    for (int64_t k = begin; k < end; ++k) {
        if (suppresses(stays[k], candidate, threshold)) {
            atomicOr(gone + i / 64, 1ull << (i % 64));
            return;
        }
    }
}

// Bit j of pairs[i * kWords + word]: candidate i suppresses the later candidate 64 * word + j.
template <typename T>
__global__ void find_pairs(const Labelled<T>* candidates, int64_t size, T threshold,
                           unsigned long long* pairs) {
    const int64_t at = blockIdx.x * kThreads + threadIdx.x;
    const int64_t i = at / kWords;
    if (i >= size) return;
    const int64_t first = at % kWords * 64;
    const int64_t last = first + 64 < size ? first + 64 : size;
    const Labelled<T> candidate = candidates[i];
    unsigned long long bits = 0;
    for (int64_t j = i < first ? first : i + 1; j < last; ++j) {
        if (suppresses(candidate, candidates[j], threshold)) bits |= 1ull << (j - first);
    }
    pairs[at] = bits;
}

// One warp: lane w holds the word w of the candidates that are gone.
template <typename T>
__global__ void walk(const Labelled<T>* candidates, const int64_t* order, int64_t size,
                     const unsigned long long* pairs, const unsigned long long* gone, Labelled<T>* stays,
                     int64_t* keep, int64_t* kept) {
    const int lane = threadIdx.x;
    unsigned long long mine = gone[lane];
    int64_t total = *kept;
    for (int64_t i = 0; i < size; ++i) {
        const unsigned long long word = __shfl_sync(0xffffffffu, mine, static_cast<int>(i / 64));
        if (word >> (i % 64) & 1) continue;
        mine |= pairs[i * kWords + lane];
        if (lane == 0) {
            stays[total] = candidates[i];
            keep[total] = order[i];
        }
        ++total;
    }
    __syncwarp();
    if (lane == 0) *kept = total;
}

int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

int64_t blocks(int64_t items, int64_t size) { return (items + size - 1) / size; }

template <typename T>
int64_t workspace_bytes(int64_t count) {
    return 2 * aligned(count * static_cast<int64_t>(sizeof(Labelled<T>))) + kBlock * kWords * 8 + kWords * 8;
}

template <typename T>
int32_t nms(const void* boxes, const int64_t* order, const int64_t* labels, int64_t count,
            double iou_threshold, void* workspace, int64_t* keep, int64_t* kept, cudaStream_t stream) {
    const T threshold = round_down<T>(iou_threshold);
    char* memory = static_cast<char*>(workspace);
    const int64_t array = aligned(count * static_cast<int64_t>(sizeof(Labelled<T>)));
    auto* sorted = reinterpret_cast<Labelled<T>*>(memory);
    auto* stays = reinterpret_cast<Labelled<T>*>(memory + array);
    auto* pairs = reinterpret_cast<unsigned long long*>(memory + 2 * array);
    auto* gone = pairs + kBlock * kWords;

    cudaMemsetAsync(kept, 0, sizeof(int64_t), stream);
    if (count > 0) {
        gather<<<blocks(count, kThreads), kThreads, 0, stream>>>(static_cast<const Box<T>*>(boxes), order,
                                                                 labels, count, sorted);
    }
    for (int64_t begin = 0; begin < count; begin += kBlock) {
        const int64_t size = count - begin < kBlock ? count - begin : kBlock;
        const Labelled<T>* candidates = sorted + begin;
        cudaMemsetAsync(gone, 0, kWords * 8, stream);
        if (begin > 0) {
            const dim3 grid(blocks(begin, kTile), blocks(size, kThreads));
            hold_against_kept<<<grid, kThreads, 0, stream>>>(candidates, size, stays, kept, threshold, gone);
        }
        find_pairs<<<blocks(size * kWords, kThreads), kThreads, 0, stream>>>(candidates, size, threshold,
                                                                             pairs);
        walk<<<1, kWords, 0, stream>>>(candidates, order + begin, size, pairs, gone, stays, keep, kept);
    }
    return launch_status();
}

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_ops_abi(void) { return ZOOFLEET_OPS_ABI; }

const char* zoofleet_cuda_error(int32_t status) {
    return cudaGetErrorString(static_cast<cudaError_t>(status - ZOOFLEET_CUDA_ERROR));
}

int64_t zoofleet_nms_cuda_workspace(int64_t count, int32_t dtype) {
    return dtype == ZOOFLEET_FLOAT64 ? zoofleet::workspace_bytes<double>(count)
                                     : zoofleet::workspace_bytes<float>(count);
}

int32_t zoofleet_nms_cuda(const void* boxes, const int64_t* order, const int64_t* labels, int64_t count,
                          double iou_threshold, int32_t dtype, void* workspace, int64_t* keep, int64_t* kept,
                          void* stream) {
    if (count < 0 || !(iou_threshold >= 0)) return ZOOFLEET_INVALID_ARGUMENT;
    switch (dtype) {
        case ZOOFLEET_FLOAT32:
            return zoofleet::nms<float>(boxes, order, labels, count, iou_threshold, workspace, keep, kept,
                                        static_cast<cudaStream_t>(stream));
        case ZOOFLEET_FLOAT64:
            return zoofleet::nms<double>(boxes, order, labels, count, iou_threshold, workspace, keep, kept,
                                         static_cast<cudaStream_t>(stream));
        default:
            return ZOOFLEET_INVALID_ARGUMENT;
    }
}
