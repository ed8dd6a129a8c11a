# Sets what the components of the loop are told by their environment; to be sourced: . scripts/setparms.sh
# What is set already stays, so that another cluster or another port is one export away.

export KUBECONFIG="${KUBECONFIG:-$HOME/.kube/config}"

export CONTROLLER_HOST="${CONTROLLER_HOST:-localhost}"
export CONTROLLER_PORT="${CONTROLLER_PORT:-3300}"

export COLLECTOR_HOST="${COLLECTOR_HOST:-localhost}"
export COLLECTOR_PORT="${COLLECTOR_PORT:-3301}"

# The optimizer.
export INFERNO_HOST="${INFERNO_HOST:-localhost}"
export INFERNO_PORT="${INFERNO_PORT:-3302}"

export ACTUATOR_HOST="${ACTUATOR_HOST:-localhost}"
export ACTUATOR_PORT="${ACTUATOR_PORT:-3303}"

export INFERNO_CONTROL_PERIOD="${INFERNO_CONTROL_PERIOD:-60}"
export INFERNO_CONTROL_DYNAMIC="${INFERNO_CONTROL_DYNAMIC:-false}"
