// The host's half of the CUDA functions: which kernels are launched, in which order. It needs no CUDA to be
// built, as the caller hands in the driver's functions.

#include <cstdint>
#include <string>

#include "correlation.h"
#include "iou.h"
#include "kernels.h"
#include "paste_masks.h"
#include "resize.h"
#include "roi_align.h"
#include "upsampled_argmax.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

template <typename T>
constexpr const char* kSuffix = nullptr;
template <>
constexpr const char* kSuffix<float> = "_float";
template <>
constexpr const char* kSuffix<double> = "_double";
template <>
constexpr const char* kSuffix<uint8_t> = "_uint8_t";
template <>
constexpr const char* kSuffix<uint16_t> = "_uint16_t";
template <>
constexpr const char* kSuffix<uint32_t> = "_uint32_t";

// What one call enqueues, in order; nothing more after the first error.
class Queue {
  public:
    Queue(const zoofleet_cuda* cuda, void* stream) : cuda_(*cuda), stream_(stream) {}

    template <template <typename> class Kernel, typename T>
    void launch(const Kernel<T>& kernel) {
        const Grid grid = kernel.grid();
        if (error_ || grid.x == 0 || grid.y == 0) return;
        if (grid.x > INT32_MAX || grid.y > UINT16_MAX) {  // CUDA C++ Programming Guide, Compute Capabilities
            refused_ = true;
            return;
        }
        void* function = nullptr;
        error_ =
            cuda_.get_function(&function, cuda_.module, (std::string(Kernel<T>::kName) + kSuffix<T>).c_str());
        if (error_) return;
        void* arguments[] = {const_cast<Kernel<T>*>(&kernel)};
        error_ = cuda_.launch(function, static_cast<uint32_t>(grid.x), static_cast<uint32_t>(grid.y), 1,
                              Kernel<T>::kThreads, 1, 1, 0, stream_, arguments, nullptr);
    }
    void clear(void* memory, std::size_t bytes) {
        if (!error_) error_ = cuda_.fill(reinterpret_cast<uintptr_t>(memory), 0, bytes, stream_);
    }
    int32_t status() const {
        if (refused_) return ZOOFLEET_INVALID_ARGUMENT;
        return error_ ? ZOOFLEET_CUDA_ERROR + error_ : ZOOFLEET_OK;
    }

  private:
    const zoofleet_cuda& cuda_;
    void* stream_;
    int32_t error_ = 0;
    bool refused_ = false;
};

int64_t aligned(int64_t bytes) { return blocks(bytes, 256) * 256; }

template <typename T>
int64_t nms_workspace(int64_t count) {
    return 2 * aligned(count * static_cast<int64_t>(sizeof(Labelled<T>))) + kNmsBlock * kNmsWords * 8 +
           kNmsWords * 8;
}

template <typename T>
int32_t nms(Queue queue, const void* boxes, const int64_t* order, const int64_t* labels, int64_t count,
            double iou_threshold, void* workspace, int64_t* keep, int64_t* kept) {
    const T threshold = round_down<T>(iou_threshold);
    char* memory = static_cast<char*>(workspace);
    const int64_t array = aligned(count * static_cast<int64_t>(sizeof(Labelled<T>)));
    auto* sorted = reinterpret_cast<Labelled<T>*>(memory);
    auto* stays = reinterpret_cast<Labelled<T>*>(memory + array);
    auto* pairs = reinterpret_cast<unsigned long long*>(memory + 2 * array);
    auto* gone = pairs + kNmsBlock * kNmsWords;

    queue.clear(kept, sizeof(int64_t));
    queue.launch(NmsGather<T>{static_cast<const Box<T>*>(boxes), order, labels, count, sorted});
    for (int64_t begin = 0; begin < count; begin += kNmsBlock) {
        const int64_t size = count - begin < kNmsBlock ? count - begin : kNmsBlock;
        const Labelled<T>* candidates = sorted + begin;
        queue.clear(gone, kNmsWords * 8);
        queue.launch(NmsHoldAgainstKept<T>{candidates, size, begin, stays, kept, threshold, gone});
        queue.launch(NmsFindPairs<T>{candidates, size, threshold, pairs});
        queue.launch(NmsWalk<T>{candidates, order + begin, size, pairs, gone, stays, keep, kept});
    }
    return queue.status();
}

// Launches Kernel<T> with a thread for each element of the output.
template <template <typename> class Kernel, typename T>
int32_t roi_align(Queue queue, const zoofleet_roi_align_params& p, const void* source, const void* rois,
                  void* target) {
    const int64_t elements = p.rois * p.channels * p.pooled_height * p.pooled_width;
    queue.launch(Kernel<T>{p, elements, static_cast<const T*>(source), static_cast<const T*>(rois),
                           static_cast<T*>(target)});
    return queue.status();
}

template <typename T>
int32_t resize(Queue queue, const zoofleet_resize_params& p, const zoofleet_resize_taps& taps,
               const uint8_t* image, const void* table, uint8_t* workspace, void* output) {
    if (p.out_height == 0) return ZOOFLEET_OK;
    queue.launch(ResizeNarrowRows<uint8_t>{p, taps, image, workspace});
    queue.launch(
        ResizeWeighRows<T>{p, taps, workspace, static_cast<const T*>(table), static_cast<T*>(output)});
    return queue.status();
}

template <typename T>
int32_t look_up(Queue queue, const zoofleet_correlation_params& p, const void* features1,
                const void* features2, const void* coords, void* output) {
    queue.launch(CorrelationLookUp<T>{p, static_cast<const T*>(features1), static_cast<const T*>(features2),
                                      static_cast<const T*>(coords), static_cast<T*>(output)});
    return queue.status();
}

template <typename T>
int32_t spread(Queue queue, const zoofleet_correlation_params& p, const void* grad, const void* features1,
               const void* features2, const void* coords, void* grad1, void* grad2, void* grad_coords) {
    queue.launch(CorrelationSpread<T>{p, static_cast<const T*>(grad), static_cast<const T*>(features1),
                                      static_cast<const T*>(features2), static_cast<const T*>(coords),
                                      static_cast<T*>(grad1), static_cast<T*>(grad2),
                                      static_cast<T*>(grad_coords)});
    return queue.status();
}

}  // namespace
}  // namespace zoofleet

using zoofleet::Queue;

int64_t zoofleet_nms_cuda_workspace(int64_t count, int32_t dtype) {
    return dtype == ZOOFLEET_FLOAT64 ? zoofleet::nms_workspace<double>(count)
                                     : zoofleet::nms_workspace<float>(count);
}

int32_t zoofleet_nms_cuda(const zoofleet_cuda* cuda, const void* boxes, const int64_t* order,
                          const int64_t* labels, int64_t count, double iou_threshold, int32_t dtype,
                          void* workspace, int64_t* keep, int64_t* kept, void* stream) {
    if (count < 0 || !(iou_threshold >= 0)) return ZOOFLEET_INVALID_ARGUMENT;
    if (dtype != ZOOFLEET_FLOAT32 && dtype != ZOOFLEET_FLOAT64) return ZOOFLEET_INVALID_ARGUMENT;
    const auto call = dtype == ZOOFLEET_FLOAT32 ? zoofleet::nms<float> : zoofleet::nms<double>;
    return call(Queue(cuda, stream), boxes, order, labels, count, iou_threshold, workspace, keep, kept);
}

int32_t zoofleet_roi_align_cuda(const zoofleet_cuda* cuda, const zoofleet_roi_align_params* params,
                                const void* input, const void* rois, void* output, void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    const auto call = params->dtype == ZOOFLEET_FLOAT32 ? zoofleet::roi_align<zoofleet::RoiAlignPool, float>
                                                        : zoofleet::roi_align<zoofleet::RoiAlignPool, double>;
    return call(Queue(cuda, stream), *params, input, rois, output);
}

int32_t zoofleet_roi_align_backward_cuda(const zoofleet_cuda* cuda, const zoofleet_roi_align_params* params,
                                         const void* grad_output, const void* rois, void* grad_input,
                                         void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    const auto call = params->dtype == ZOOFLEET_FLOAT32
                          ? zoofleet::roi_align<zoofleet::RoiAlignSpread, float>
                          : zoofleet::roi_align<zoofleet::RoiAlignSpread, double>;
    return call(Queue(cuda, stream), *params, grad_output, rois, grad_input);
}

int32_t zoofleet_paste_masks_runs_cuda(const zoofleet_cuda* cuda, const zoofleet_paste_params* params,
                                       const float* masks, const int64_t* extents, int64_t* changes,
                                       int64_t* ends, void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    Queue queue(cuda, stream);
    queue.launch(zoofleet::PasteRuns<float>{*params, masks, extents, changes, ends});
    return queue.status();
}

int32_t zoofleet_resize_normalize_cuda(const zoofleet_cuda* cuda, const zoofleet_resize_params* params,
                                       const zoofleet_resize_taps* taps, const uint8_t* image,
                                       const void* table, uint8_t* workspace, void* output, void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    const auto call = params->value_bytes == 2 ? zoofleet::resize<uint16_t> : zoofleet::resize<uint32_t>;
    return call(Queue(cuda, stream), *params, *taps, image, table, workspace, output);
}

int32_t zoofleet_upsampled_argmax_cuda(const zoofleet_cuda* cuda, const zoofleet_argmax_params* params,
                                       const zoofleet_argmax_taps* taps, const float* logits, uint8_t* output,
                                       void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    Queue queue(cuda, stream);
    queue.launch(zoofleet::ArgmaxLabelPixels<float>{*params, *taps, logits, output});
    return queue.status();
}

int32_t zoofleet_correlation_lookup_cuda(const zoofleet_cuda* cuda, const zoofleet_correlation_params* params,
                                         const void* features1, const void* features2, const void* coords,
                                         void* output, void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    const auto call =
        params->dtype == ZOOFLEET_FLOAT32 ? zoofleet::look_up<float> : zoofleet::look_up<double>;
    return call(Queue(cuda, stream), *params, features1, features2, coords, output);
}

int32_t zoofleet_correlation_lookup_backward_cuda(const zoofleet_cuda* cuda,
                                                  const zoofleet_correlation_params* params,
                                                  const void* grad_output, const void* features1,
                                                  const void* features2, const void* coords, void* grad1,
                                                  void* grad2, void* grad_coords, void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    const auto call = params->dtype == ZOOFLEET_FLOAT32 ? zoofleet::spread<float> : zoofleet::spread<double>;
    return call(Queue(cuda, stream), *params, grad_output, features1, features2, coords, grad1, grad2,
                grad_coords);
}
