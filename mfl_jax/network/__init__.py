"""The network of the paper's Table II.

`joint_network` is the network, row by row of the table; `forward` applies it to batches of spectrograms. The other modules are
layers of the network. `cpu` holds forms of the layers for CPUs.
"""
