// The best channel of each pixel of logits that are stretched bilinearly, on a CUDA device: a thread for each
// pixel.

#include "upsampled_argmax.h"

#include <cstdint>

#include "cuda_status.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

constexpr int64_t kThreads = 256;

__global__ void label_pixels(zoofleet_argmax_params p, zoofleet_argmax_taps taps, const float* logits,
                             uint8_t* output) {
    const int64_t element = blockIdx.x * kThreads + threadIdx.x;
    if (element >= p.out_height * p.out_width) return;
    const int64_t x = element % p.out_width, y = element / p.out_width;
    const int64_t column = p.interleaved ? p.channels : 1;
    const int64_t channel = p.interleaved ? 1 : p.height * p.width;
    const int64_t above = taps.aboves[y] * p.width * column;
    const int64_t below = above + (taps.aboves[y] + 1 < p.height ? p.width * column : 0);
    const int64_t left = taps.lefts[x] * column, right = left + (taps.lefts[x] + 1 < p.width ? column : 0);
    const float weight = taps.row_weights[y];
    const float left_weight = taps.left_weights[x], right_weight = taps.right_weights[x];
    float best = 0;
    uint8_t label = 0;
    for (int64_t c = 0; c < p.channels; ++c) {
        const float* plane = logits + c * channel;
        const float value = mix_columns(mix_rows(plane[above + left], plane[below + left], weight),
                                        mix_rows(plane[above + right], plane[below + right], weight),
                                        left_weight, right_weight);
        if (c > 0 && !beats(value, best)) continue;
        best = value;
        label = static_cast<uint8_t>(c);
    }
    output[element] = label;
}

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_upsampled_argmax_cuda(const zoofleet_argmax_params* params, const zoofleet_argmax_taps* taps,
                                       const float* logits, uint8_t* output, void* stream) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    const int64_t elements = params->out_height * params->out_width;
    if (elements == 0) return ZOOFLEET_OK;
    const int64_t blocks = (elements + zoofleet::kThreads - 1) / zoofleet::kThreads;
    zoofleet::label_pixels<<<blocks, zoofleet::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
        *params, *taps, logits, output);
    return zoofleet::launch_status();
}
