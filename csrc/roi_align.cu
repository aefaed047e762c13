// RoIAlign on a CUDA device: a thread for each bin of each channel of each box.

#include <cstdint>

#include "cuda_status.h"
#include "roi_align.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

constexpr int64_t kThreads = 256;

// Calls visit(offset in the plane, weight) for each pixel that the bin reads.
template <typename T, typename Visit>
__device__ void visit_bin(const zoofleet_roi_align_params& p, const T* roi, int64_t bin_y, int64_t bin_x,
                          const Visit& visit) {
    const Axis<T> y = make_axis(roi[2], roi[4], p.pooled_height, p.height, p);
    const Axis<T> x = make_axis(roi[1], roi[3], p.pooled_width, p.width, p);
    const T grid = static_cast<T>(y.grid) * static_cast<T>(x.grid);
    const T samples = grid < T(1) ? T(1) : grid;
    const SampleRange rows = samples_inside(y, bin_y);
    const SampleRange columns = samples_inside(x, bin_x);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
        Sample<T> row;
        if (!locate(y, bin_y, i, &row)) continue;
        for (int64_t j = columns.begin; j < columns.end; ++j) {
            Sample<T> column;
            if (!locate(x, bin_x, j, &column)) continue;
            visit(row.low * p.width + column.low, row.low_weight * column.low_weight / samples);
            visit(row.low * p.width + column.high, row.low_weight * column.high_weight / samples);
            visit(row.high * p.width + column.low, row.high_weight * column.low_weight / samples);
            visit(row.high * p.width + column.high, row.high_weight * column.high_weight / samples);
        }
    }
}

// The bin of one element of the output (rois, channels, pooled_height, pooled_width).
struct Bin {
    int64_t x, y, channel, roi;
};

__device__ Bin bin_of(int64_t element, const zoofleet_roi_align_params& p) {
    const int64_t row = element / p.pooled_width;
    const int64_t plane = row / p.pooled_height;
    return Bin{element % p.pooled_width, row % p.pooled_height, plane % p.channels, plane / p.channels};
}

template <typename T>
__global__ void pool(zoofleet_roi_align_params p, int64_t elements, const T* input, const T* rois,
                     T* output) {
    const int64_t element = blockIdx.x * kThreads + threadIdx.x;
    if (element >= elements) return;
    const Bin bin = bin_of(element, p);
    const T* roi = rois + 5 * bin.roi;
    const int64_t image = batch_index(roi[0], p.batch);
    if (image < 0) {
        output[element] = static_cast<T>(NAN);
        return;
    }
    const T* plane = input + (image * p.channels + bin.channel) * p.height * p.width;
    T sum = 0;
    visit_bin(p, roi, bin.y, bin.x, [&](int64_t offset, T weight) { sum += weight * plane[offset]; });
    output[element] = sum;
}

template <typename T>
__global__ void spread(zoofleet_roi_align_params p, int64_t elements, const T* grad, const T* rois,
                       T* grad_input) {
    const int64_t element = blockIdx.x * kThreads + threadIdx.x;
    if (element >= elements) return;
    const Bin bin = bin_of(element, p);
    const T* roi = rois + 5 * bin.roi;
    const int64_t image = batch_index(roi[0], p.batch);
    if (image < 0) return;
    T* plane = grad_input + (image * p.channels + bin.channel) * p.height * p.width;
    const T share = grad[element];
    visit_bin(p, roi, bin.y, bin.x,
              [&](int64_t offset, T weight) { atomicAdd(plane + offset, weight * share); });
}

// Launches `kernel` with a thread for each element of the output.
template <typename T, typename Kernel>
int32_t launch(Kernel kernel, const zoofleet_roi_align_params& p, const void* source, const void* rois,
               void* target, void* stream) {
    const int64_t elements = p.rois * p.channels * p.pooled_height * p.pooled_width;
    if (elements == 0) return ZOOFLEET_OK;
    kernel<<<(elements + kThreads - 1) / kThreads, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        p, elements, static_cast<const T*>(source), static_cast<const T*>(rois), static_cast<T*>(target));
    return launch_status();
}

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_roi_align_cuda(const zoofleet_roi_align_params* params, const void* input, const void* rois,
                                void* output, void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    return params->dtype == ZOOFLEET_FLOAT32
               ? zoofleet::launch<float>(zoofleet::pool<float>, *params, input, rois, output, stream)
               : zoofleet::launch<double>(zoofleet::pool<double>, *params, input, rois, output, stream);
}

int32_t zoofleet_roi_align_backward_cuda(const zoofleet_roi_align_params* params, const void* grad_output,
                                         const void* rois, void* grad_input, void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    return params->dtype == ZOOFLEET_FLOAT32
               ? zoofleet::launch<float>(zoofleet::spread<float>, *params, grad_output, rois, grad_input,
                                         stream)
               : zoofleet::launch<double>(zoofleet::spread<double>, *params, grad_output, rois, grad_input,
                                          stream);
}
