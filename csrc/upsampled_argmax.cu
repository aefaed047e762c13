// The best channel of each pixel of logits that are stretched bilinearly, on a CUDA device: a thread for each
// pixel.

#include <cstdint>

#include "kernels.h"
#include "upsampled_argmax.h"

namespace zoofleet {

template <typename T>
__device__ void run(const ArgmaxLabelPixels<T>& k) {
    const zoofleet_argmax_params& p = k.params;
    const zoofleet_argmax_taps& taps = k.taps;
    const int64_t element = blockIdx.x * k.kThreads + threadIdx.x;
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
        const T* plane = k.logits + c * channel;
        const float value = mix_columns(mix_rows(plane[above + left], plane[below + left], weight),
                                        mix_rows(plane[above + right], plane[below + right], weight),
                                        left_weight, right_weight);
        if (c > 0 && !beats(value, best)) continue;
        best = value;
        label = static_cast<uint8_t>(c);
    }
    k.output[element] = label;
}

}  // namespace zoofleet

ZOOFLEET_KERNEL(ArgmaxLabelPixels, float)
