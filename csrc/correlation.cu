// Lookups in the correlation of all pairs of feature vectors, without computing them all, on a CUDA device: a
// warp for each pixel, whose lanes share out the channels.

#include <cstdint>

#include "correlation.h"
#include "kernels.h"

namespace zoofleet {
// What a warp works on.
template <typename T>
struct CorrelationTask {
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
                          const T* coords, CorrelationTask<T>* task) {
    const int64_t index = blockIdx.x * kCorrelationWarps + threadIdx.x / kWarp;
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
__device__ void correlate(const zoofleet_correlation_params& p, const CorrelationTask<T>& task, T* dots) {
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
__device__ void run(const CorrelationLookUp<T>& k, Dots<T>& shared) {
    CorrelationTask<T> task;
    if (!make_task(k.params, k.features1, k.features2, k.coords, &task)) return;
    T* dots = shared.of_warp[threadIdx.x / kWarp];
    correlate(k.params, task, dots);
    const Window<T>& window = task.window;
    const int64_t samples = window.side - 1;
    for (int64_t i = task.lane; i < samples * samples; i += kWarp) {
        const T* at = dots + i % samples * window.side + i / samples;
        k.output[task.samples + i * task.pixels] = window.weight(0, 0) * at[0] + window.weight(1, 0) * at[1] +
                                                   window.weight(0, 1) * at[window.side] +
                                                   window.weight(1, 1) * at[window.side + 1];
    }
}

template <typename T>
__device__ void run(const CorrelationSpread<T>& k, Dots<T>& shared) {
    const zoofleet_correlation_params& p = k.params;
    CorrelationTask<T> task;
    if (!make_task(p, k.features1, k.features2, k.coords, &task)) return;
    T* dots = shared.of_warp[threadIdx.x / kWarp];
    const Window<T>& window = task.window;
    const int64_t area = window.side * window.side;
    const T* own_grad = k.grad + task.samples;

    correlate(p, task, dots);
    if (task.lane == 0) {
        T grad_x = 0, grad_y = 0;
        position_gradient(window, own_grad, task.pixels, dots, &grad_x, &grad_y);
        k.grad_coords[task.image * 2 * task.pixels + task.pixel] = grad_x;
        k.grad_coords[(task.image * 2 + 1) * task.pixels + task.pixel] = grad_y;
    }
    __syncwarp();
    // The correlations are done with; the gradients of the window's pixels take their place.
    for (int64_t at = task.lane; at < area; at += kWarp) {
        dots[at] = pixel_gradient(window, own_grad, task.pixels, at % window.side, at / window.side);
    }
    __syncwarp();
    T* gradient1 = k.grad1 + (task.vector1 - k.features1);
    T* gradient2 = k.grad2 + (task.map2 - k.features2);
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

}  // namespace zoofleet

ZOOFLEET_SHARED_KERNEL(CorrelationLookUp, float)
ZOOFLEET_SHARED_KERNEL(CorrelationLookUp, double)
ZOOFLEET_SHARED_KERNEL(CorrelationSpread, float)
ZOOFLEET_SHARED_KERNEL(CorrelationSpread, double)
