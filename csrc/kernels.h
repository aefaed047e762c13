// Every CUDA kernel: its arguments and the grid that it is launched with. launchers.cpp launches what is
// described here and the .cu files define what it does, for a T that each of them names.

#ifndef ZOOFLEET_KERNELS_H_
#define ZOOFLEET_KERNELS_H_

#include <cstdint>

#include "correlation.h"
#include "iou.h"
#include "zoofleet_ops.h"

// In the description of a kernel: its name, to which the device's code adds an underscore and T.
#define ZOOFLEET_NAME(kernel) static constexpr const char* kName = #kernel

// Defines kernel<T> on the device. A function `run` takes its arguments, and its `Shared` memory where it has
// any.
#ifdef __CUDACC__
#define ZOOFLEET_KERNEL(kernel, T) \
    extern "C" __global__ void kernel##_##T(zoofleet::kernel<T> arguments) { zoofleet::run(arguments); }
#define ZOOFLEET_SHARED_KERNEL(kernel, T)                                    \
    extern "C" __global__ void kernel##_##T(zoofleet::kernel<T> arguments) { \
        __shared__ zoofleet::kernel<T>::Shared shared;                       \
        zoofleet::run(arguments, shared);                                    \
    }
#endif

namespace zoofleet {

constexpr int64_t kWarp = 32;

// Blocks of threads. y is more than 1 for few kernels.
struct Grid {
    int64_t x, y;
};

// Returns how many blocks of `size` hold so many items.
ZOOFLEET_HOST_DEVICE inline int64_t blocks(int64_t items, int64_t size) { return (items + size - 1) / size; }

// A box in order of falling score, with its class.
template <typename T>
struct Labelled {
    Box<T> box;
    int64_t label;
};

constexpr int64_t kNmsWords = kWarp;           // one for each lane of the warp that walks
constexpr int64_t kNmsBlock = kNmsWords * 64;  // candidates in a block: a bit each
constexpr int64_t kNmsTile = 1024;             // kept boxes that one thread holds its candidate against

// Sorts boxes and labels.
template <typename T>
struct NmsGather {
    ZOOFLEET_NAME(NmsGather);
    static constexpr int64_t kThreads = 256;
    const Box<T>* boxes;
    const int64_t *order, *labels;
    int64_t count;
    Labelled<T>* sorted;

    Grid grid() const { return {blocks(count, kThreads), 1}; }
};

// Sets the bit in `gone` of each of the `size` candidates that one of the *kept boxes, at most `most`,
// suppresses.
template <typename T>
struct NmsHoldAgainstKept {
    ZOOFLEET_NAME(NmsHoldAgainstKept);
    static constexpr int64_t kThreads = 256;
    const Labelled<T>* candidates;
    int64_t size, most;
    const Labelled<T>* stays;
    const int64_t* kept;
    T threshold;
    unsigned long long* gone;

    Grid grid() const { return {blocks(most, kNmsTile), blocks(size, kThreads)}; }
};

// Bit j of pairs[i * kNmsWords + word]: candidate i suppresses the later candidate 64 * word + j.
template <typename T>
struct NmsFindPairs {
    ZOOFLEET_NAME(NmsFindPairs);
    static constexpr int64_t kThreads = 256;
    const Labelled<T>* candidates;
    int64_t size;
    T threshold;
    unsigned long long* pairs;

    Grid grid() const { return {blocks(size * kNmsWords, kThreads), 1}; }
};

// Appends the candidates that stay to `stays` and `keep`. One warp: lane w holds the word w of those that are
// gone.
template <typename T>
struct NmsWalk {
    ZOOFLEET_NAME(NmsWalk);
    static constexpr int64_t kThreads = kWarp;
    const Labelled<T>* candidates;
    const int64_t* order;
    int64_t size;
    const unsigned long long *pairs, *gone;
    Labelled<T>* stays;
    int64_t *keep, *kept;

    Grid grid() const { return {1, 1}; }
};

// A thread for each element (rois, channels, pooled_height, pooled_width) of the output.
template <typename T>
struct RoiAlignPool {
    ZOOFLEET_NAME(RoiAlignPool);
    static constexpr int64_t kThreads = 256;
    zoofleet_roi_align_params params;
    int64_t elements;
    const T *input, *rois;
    T* output;

    Grid grid() const { return {blocks(elements, kThreads), 1}; }
};

// Adds the gradient; as the pooling, but each thread spreads its element over the input.
template <typename T>
struct RoiAlignSpread {
    ZOOFLEET_NAME(RoiAlignSpread);
    static constexpr int64_t kThreads = 256;
    zoofleet_roi_align_params params;
    int64_t elements;
    const T *grad, *rois;
    T* grad_input;

    Grid grid() const { return {blocks(elements, kThreads), 1}; }
};

// A thread for each column of each mask; zoofleet_ops.h says what `changes` and `ends` are.
template <typename T>
struct PasteRuns {
    ZOOFLEET_NAME(PasteRuns);
    static constexpr int64_t kThreads = 256;
    zoofleet_paste_params params;
    const T* masks;
    const int64_t* extents;
    int64_t *changes, *ends;

    Grid grid() const { return {blocks(params.masks * params.width, kThreads), 1}; }
};

// Narrows the rows of an image: narrow (height, out_width, 3).
template <typename T>
struct ResizeNarrowRows {
    ZOOFLEET_NAME(ResizeNarrowRows);
    static constexpr int64_t kThreads = 256;
    zoofleet_resize_params params;
    zoofleet_resize_taps taps;
    const T* image;
    T* narrow;

    Grid grid() const { return {blocks(params.height * params.out_width * 3, kThreads), 1}; }
};

// Weighs narrow rows against each other and looks the result up, as values of size T.
template <typename T>
struct ResizeWeighRows {
    ZOOFLEET_NAME(ResizeWeighRows);
    static constexpr int64_t kThreads = 256;
    zoofleet_resize_params params;
    zoofleet_resize_taps taps;
    const uint8_t* narrow;
    const T* table;
    T* output;

    Grid grid() const { return {blocks(3 * params.out_height * params.out_width, kThreads), 1}; }
};

// A thread for each pixel (out_height, out_width) of the output.
template <typename T>
struct ArgmaxLabelPixels {
    ZOOFLEET_NAME(ArgmaxLabelPixels);
    static constexpr int64_t kThreads = 256;
    zoofleet_argmax_params params;
    zoofleet_argmax_taps taps;
    const T* logits;
    uint8_t* output;

    Grid grid() const { return {blocks(params.out_height * params.out_width, kThreads), 1}; }
};

constexpr int64_t kCorrelationWarps = 4;  // in a block

// What a block has for the correlations of each warp's window.
template <typename T>
struct Dots {
    T of_warp[kCorrelationWarps][kMaxSide * kMaxSide];
};

// A warp for each pixel of the first image, whose lanes share out the channels.
template <typename T>
struct CorrelationLookUp {
    ZOOFLEET_NAME(CorrelationLookUp);
    static constexpr int64_t kThreads = kCorrelationWarps * kWarp;
    using Shared = Dots<T>;
    zoofleet_correlation_params params;
    const T *features1, *features2, *coords;
    T* output;

    Grid grid() const { return {blocks(params.batch * params.height * params.width, kCorrelationWarps), 1}; }
};

// The gradients; the warps work as for the lookup.
template <typename T>
struct CorrelationSpread {
    ZOOFLEET_NAME(CorrelationSpread);
    static constexpr int64_t kThreads = kCorrelationWarps * kWarp;
    using Shared = Dots<T>;
    zoofleet_correlation_params params;
    const T *grad, *features1, *features2, *coords;
    T *grad1, *grad2, *grad_coords;

    Grid grid() const { return {blocks(params.batch * params.height * params.width, kCorrelationWarps), 1}; }
};

}  // namespace zoofleet

#endif  // ZOOFLEET_KERNELS_H_
