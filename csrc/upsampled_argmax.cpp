// The best channel of each pixel of logits that are stretched bilinearly, on the CPU.
//
// Each thread makes a share of the output's rows. It mixes the two rows of logits that an output row lies
// between, which stay in its cache, and then goes over them channel by channel, pixel by pixel.

#include "upsampled_argmax.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "zoofleet_ops.h"

namespace zoofleet {
namespace {

constexpr int64_t kShare = 1 << 16;  // logits of the output that are worth another thread

// An output row's logits, by channel or by column as the logits themselves are.
struct Line {
    std::vector<float> mixed;            // (channels, width) or (width, channels)
    std::vector<int32_t> lefts, rights;  // for each output column, where its columns are within a channel
    std::vector<float> best;             // (out_width)
    std::vector<int32_t> labels;         // (out_width)
};

ZOOFLEET_CLONES void mix(const float* above, const float* below, float weight, int64_t count,
                         float* __restrict mixed) {
    for (int64_t i = 0; i < count; ++i) mixed[i] = mix_rows(above[i], below[i], weight);
}

ZOOFLEET_CLONES void contend(const float* channel, const int32_t* lefts, const int32_t* rights,
                             const float* left_weights, const float* right_weights, int32_t label,
                             int64_t count, float* __restrict best, int32_t* __restrict labels) {
    for (int64_t x = 0; x < count; ++x) {
        const float value =
            mix_columns(channel[lefts[x]], channel[rights[x]], left_weights[x], right_weights[x]);
        const bool better = beats(value, best[x]);
        best[x] = better ? value : best[x];
        labels[x] = better ? label : labels[x];
    }
}

void label_rows(const zoofleet_argmax_params& p, const zoofleet_argmax_taps& taps, const float* logits,
                int64_t begin, int64_t end, uint8_t* output) {
    // Planes of rows: one for each channel, or one in which channels lie side by side.
    const int64_t planes = p.interleaved ? 1 : p.channels;
    const int64_t row = p.interleaved ? p.width * p.channels : p.width;
    const int64_t column = p.interleaved ? p.channels : 1, channel = p.interleaved ? 1 : p.width;
    const std::size_t out_width = static_cast<std::size_t>(p.out_width);
    Line line{std::vector<float>(static_cast<std::size_t>(planes * row)), std::vector<int32_t>(out_width),
              std::vector<int32_t>(out_width), std::vector<float>(out_width),
              std::vector<int32_t>(out_width)};
    for (int64_t x = 0; x < p.out_width; ++x) {
        line.lefts[x] = static_cast<int32_t>(taps.lefts[x] * column);
        line.rights[x] = static_cast<int32_t>(std::min<int64_t>(taps.lefts[x] + 1, p.width - 1) * column);
    }
    for (int64_t y = begin; y < end; ++y) {
        const int64_t above = taps.aboves[y], below = std::min(above + 1, p.height - 1);
        for (int64_t plane = 0; plane < planes; ++plane) {
            const float* rows = logits + plane * p.height * row;
            mix(rows + above * row, rows + below * row, taps.row_weights[y], row,
                line.mixed.data() + plane * row);
        }
        for (int64_t x = 0; x < p.out_width; ++x) {
            line.best[x] = mix_columns(line.mixed[line.lefts[x]], line.mixed[line.rights[x]],
                                       taps.left_weights[x], taps.right_weights[x]);
            line.labels[x] = 0;
        }
        for (int64_t c = 1; c < p.channels; ++c) {
            contend(line.mixed.data() + c * channel, line.lefts.data(), line.rights.data(), taps.left_weights,
                    taps.right_weights, static_cast<int32_t>(c), p.out_width, line.best.data(),
                    line.labels.data());
        }
        std::copy(line.labels.begin(), line.labels.end(), output + y * p.out_width);
    }
}

}  // namespace
}  // namespace zoofleet

int32_t zoofleet_upsampled_argmax(const zoofleet_argmax_params* params, const zoofleet_argmax_taps* taps,
                                  const float* logits, int32_t threads, uint8_t* output) {
    if (!zoofleet::valid(*params)) return ZOOFLEET_INVALID_ARGUMENT;
    return zoofleet::guarded([&]() -> int32_t {
        const int64_t elements = params->channels * params->out_height * params->out_width;
        const int64_t shares = std::min<int64_t>(threads, 1 + elements / zoofleet::kShare);
        zoofleet::parallel_for(shares, params->out_height, [&](int64_t begin, int64_t end) {
            if (begin < end) zoofleet::label_rows(*params, *taps, logits, begin, end, output);
        });
        return ZOOFLEET_OK;
    });
}
