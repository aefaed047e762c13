// Lookups in the correlation of all pairs of feature vectors, without computing them all, on a CUDA device: a
// warp for each pixel, whose lanes share out the channels.

#include <cstdint>

#include "correlation.h"
#include "cuda_status.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

constexpr int64_t kWarp = 32;
constexpr int64_t kWarps = 4;  // in a block

// What a warp works on.
template <typename T>
struct Task {
    int64_t image, pixel, pixels, lane;
    const T *vector1, *map2;
    Window<T> window;
    int64_t samples;  // offset of the first one in the output

    __device__ int64_t offset2(const zoofleet_correlation_params& p, int64_t at) const {
        const int64_t x = at % window.side, y = at / window.side;
        if (x < window.x_begin || x >= window.x_end || y < window.y_begin || y >= window.y_end) return -1;
        return ((window.top + y) * p.width2 + window.left + x) * p.channels;
    }
};

template <typename T>
__device__ bool make_task(const zoofleet_correlation_params& p, const T* features1, const T* features2,
                          const T* coords, Task<T>* task) {
    const int64_t index = blockIdx.x * kWarps + threadIdx.x / kWarp;
    task->pixels = p.height * p.width;
    if (index >= p.batch * task->pixels) return false;
    task->image = index / task->pixels;
    task->pixel = index % task->pixels;
    task->lane = threadIdx.x % kWarp;
    task->vector1 = features1 + index * p.channels;
    task->map2 = features2 + task->image * p.height2 * p.width2 * p.channels;
    const T* xy = coords + task->image * 2 * task->pixels + task->pixel;
    task->window = make_window(xy[0], xy[task->pixels], p);
    const int64_t side = 2 * p.radius + 1;
    task->samples = task->image * side * side * task->pixels + task->pixel;
    return true;
}

// dots (side, side) in shared memory.
template <typename T>
__device__ void correlate(const zoofleet_correlation_params& p, const Task<T>& task, T* dots) {
    for (int64_t at = 0; at < task.window.side * task.window.side; ++at) {
        const int64_t offset = task.offset2(p, at);
        T sum = 0;
        if (offset >= 0) {
            for (int64_t c = task.lane; c < p.channels; c += kWarp) {
                sum += task.vector1[c] * task.map2[offset + c];
            }
            for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
        }
        if (task.lane == 0) dots[at] = sum;
    }
    __syncwarp();
}

template <typename T>
__global__ void look_up(zoofleet_correlation_params p, const T* features1, const T* features2,
                        const T* coords, T* output) {
    __shared__ T shared[kWarps][kMaxSide * kMaxSide];
    Task<T> task;
    if (!make_task(p, features1, features2, coords, &task)) return;
    T* dots = shared[threadIdx.x / kWarp];
    correlate(p, task, dots);
    const Window<T>& window = task.window;
    const int64_t samples = window.side - 1;
    for (int64_t k = task.lane; k < samples * samples; k += kWarp) {
        const T* at = dots + k % samples * window.side + k / samples;
        output[task.samples + k * task.pixels] = window.weight(0, 0) * at[0] + window.weight(1, 0) * at[1] +
                                                 window.weight(0, 1) * at[window.side] +
                                                 window.weight(1, 1) * at[window.side + 1];
    }
}

template <typename T>
__global__ void spread(zoofleet_correlation_params p, const T* grad, const T* features1, const T* features2,
                       const T* coords, T* grad1, T* grad2, T* grad_coords) {
    __shared__ T shared[kWarps][kMaxSide * kMaxSide];
    Task<T> task;
    if (!make_task(p, features1, features2, coords, &task)) return;
    T* dots = shared[threadIdx.x / kWarp];
    const Window<T>& window = task.window;
    const int64_t area = window.side * window.side;
    const T* own_grad = grad + task.samples;

    correlate(p, task, dots);
    if (task.lane == 0) {
        T grad_x = 0, grad_y = 0;
        position_gradient(window, own_grad, task.pixels, dots, &grad_x, &grad_y);
        grad_coords[task.image * 2 * task.pixels + task.pixel] = grad_x;
        grad_coords[(task.image * 2 + 1) * task.pixels + task.pixel] = grad_y;
    }
    __syncwarp();
    // The correlations are done with; the gradients of the window's pixels take their place.
    for (int64_t at = task.lane; at < area; at += kWarp) {
        dots[at] = pixel_gradient(window, own_grad, task.pixels, at % window.side, at / window.side);
    }
    __syncwarp();
    T* gradient1 = grad1 + (task.vector1 - features1);
    T* gradient2 = grad2 + (task.map2 - features2);
    for (int64_t c = task.lane; c < p.channels; c += kWarp) {
        T sum = 0;
        for (int64_t at = 0; at < area; ++at) {
            const int64_t offset = task.offset2(p, at);
            if (offset < 0) continue;
            sum += dots[at] * task.map2[offset + c];
            atomicAdd(gradient2 + offset + c, dots[at] * task.vector1[c]);
        }
        gradient1[c] = sum;
    }
}

int64_t blocks(const zoofleet_correlation_params& p) {
    return (p.batch * p.height * p.width + kWarps - 1) / kWarps;
}

template <typename T>
int32_t forward(const zoofleet_correlation_params& p, const void* features1, const void* features2,
                const void* coords, void* output, cudaStream_t stream) {
    if (blocks(p) == 0) return ZOOFLEET_OK;
    look_up<<<blocks(p), kWarps * kWarp, 0, stream>>>(p, static_cast<const T*>(features1),
                                                      static_cast<const T*>(features2),
                                                      static_cast<const T*>(coords), static_cast<T*>(output));
    return launch_status();
}

template <typename T>
int32_t backward(const zoofleet_correlation_params& p, const void* grad_output, const void* features1,
                 const void* features2, const void* coords, void* grad1, void* grad2, void* grad_coords,
                 cudaStream_t stream) {
    if (blocks(p) == 0) return ZOOFLEET_OK;
    spread<<<blocks(p), kWarps * kWarp, 0, stream>>>(
        p, static_cast<const T*>(grad_output), static_cast<const T*>(features1),
        static_cast<const T*>(features2), static_cast<const T*>(coords), static_cast<T*>(grad1),
        static_cast<T*>(grad2), static_cast<T*>(grad_coords));
    return launch_status();
}

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_correlation_lookup_cuda(const zoofleet_correlation_params* params, const void* features1,
                                         const void* features2, const void* coords, void* output,
                                         void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    const auto call =
        params->dtype == ZOOFLEET_FLOAT32 ? zoofleet::forward<float> : zoofleet::forward<double>;
    return call(*params, features1, features2, coords, output, static_cast<cudaStream_t>(stream));
}

int32_t zoofleet_correlation_lookup_backward_cuda(const zoofleet_correlation_params* params,
                                                  const void* grad_output, const void* features1,
                                                  const void* features2, const void* coords, void* grad1,
                                                  void* grad2, void* grad_coords, void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    const auto call =
        params->dtype == ZOOFLEET_FLOAT32 ? zoofleet::backward<float> : zoofleet::backward<double>;
    return call(*params, grad_output, features1, features2, coords, grad1, grad2, grad_coords,
                static_cast<cudaStream_t>(stream));
}
