// All kernels as one program: what nvcc builds ahead, NVRTC on first use, and the tests for the host.

#include "correlation.cu"
#include "nms.cu"
#include "paste_masks.cu"
#include "resize.cu"
#include "roi_align.cu"
#include "upsampled_argmax.cu"
#include "zoofleet_ops.h"

// By this symbol its user knows code of another interface; see zoofleet_ops_abi.
#define ZOOFLEET_ABI_SYMBOL(abi) zoofleet_ops_abi_##abi
#define ZOOFLEET_DEFINE_ABI(abi) \
    extern "C" __global__ void ZOOFLEET_ABI_SYMBOL(abi)() {}
ZOOFLEET_DEFINE_ABI(ZOOFLEET_OPS_ABI)
