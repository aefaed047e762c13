// The status of kernel launches.

#ifndef ZOOFLEET_CUDA_STATUS_H_
#define ZOOFLEET_CUDA_STATUS_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "zoofleet_ops.h"

namespace zoofleet {

// Returns the status of the launches since the last call on this thread. What goes wrong while kernels run
// shows when torch synchronises.
inline int32_t launch_status() {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? ZOOFLEET_OK : ZOOFLEET_CUDA_ERROR + static_cast<int32_t>(error);
}

}  // namespace zoofleet

#endif  // ZOOFLEET_CUDA_STATUS_H_
