// Run lengths that are given by where the runs end, as the CUDA kernels leave them, compressed on the CPU.

#include "rle.h"

#include <cstdint>
#include <vector>

#include "parallel.h"
#include "zoofleet_ops.h"

int32_t zoofleet_compress_runs(const int64_t* ends, const int64_t* runs, int64_t count, int32_t threads,
                               uint8_t* counts, int64_t capacity, int64_t* offsets) {
    if (count < 0 || capacity < 0) return ZOOFLEET_INVALID_ARGUMENT;
    return zoofleet::guarded([&]() -> int32_t {
        std::vector<const int64_t*> first(static_cast<std::size_t>(count));
        for (int64_t i = 0; i < count; ++i) {
            if (runs[i] < 1) return ZOOFLEET_INVALID_ARGUMENT;
            first[i] = ends;
            ends += runs[i];
        }
        std::vector<std::vector<uint8_t>> encoded(static_cast<std::size_t>(count));
        zoofleet::parallel_for(threads, count, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                zoofleet::RunEncoder encoder;
                const int64_t last = runs[i] - 1;
                for (int64_t k = 0; k < last; ++k) encoder.toggle(first[i][k]);
                encoded[i] = encoder.finish(first[i][last]);
            }
        });
        return zoofleet::store(encoded, counts, capacity, offsets);
    });
}
