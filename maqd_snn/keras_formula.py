"""The formula of keras-spiking 0.3.0's ModelEnergy (nengo/keras-spiking, model_energy.py), beside exact counts.

A device that is not event-driven computes every connection and every neuron once per inference. An event-driven one
makes `connections * rate * dt` synaptic operations in each time step, with the mean input rate of the layer in Hz, and
updates every neuron in each step. Borders are ignored: a convolution has kernel * input channels * output size
connections.
"""

from maqd_snn.errors import MaqdError
from maqd_snn.profiles import Profile


def connections(output_size: int, inputs_per_output: int) -> int:
    """Return the connections of a layer.

    >>> connections(22 * 22 * 2, 7 * 7 * 1)
    47432
    """
    return output_size * inputs_per_output


def synop_pj(profile: Profile, connected: int, rate_hz: float = 0.0, dt: float = 0.001, steps: int = 1) -> float:
    """Return the energy of a layer's synaptic operations per inference; the rate counts on event-driven devices only.

    Raises:
        MaqdError: a profile without a price for them.
    """
    if not profile.event_driven:
        return connected * _price(profile, "mac")
    return connected * rate_hz * dt * steps * _price(profile, "synop_binary")


def neuron_pj(profile: Profile, neurons: int, steps: int = 1) -> float:
    """Return the energy of a layer's neuron updates per inference: in every step, or once where not event-driven."""
    return neurons * (steps if profile.event_driven else 1) * _price(profile, "neuron_update")


def _price(profile: Profile, operation: str) -> float:
    if operation not in profile.prices:
        raise MaqdError(f"{profile.name} has no price for {operation!r}, which the formula of keras-spiking needs")
    return profile.prices[operation].energy_pj
