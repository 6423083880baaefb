"""How close is close enough, in one place. These only ever get tighter."""

ENERGY_PER_ATOM = 1e-10  # eV, float64 against DeePMD-kit
FORCE = 1e-9  # eV/Å
VIRIAL = 1e-8  # eV
FLOAT32_MODEL = 5e-5  # DeePMD-kit's own nets are float32 there: eV, eV/Å
FLOAT32_FORCE = 1e-4  # of the float64 RMS force, float32 against float64
BATCHING = 1e-10  # eV, eV/Å: batched against one by one
TRAINING_FLOAT64 = 1e-11  # compiled against twice differentiated parameter gradients, of each array's largest
TRAINING_FLOAT32 = 1e-5
STATISTICS = 1e-10  # davg, dstd, biases against DeePMD-kit's
GRADIENT = 1e-8  # relative, of loss and parameter gradients, against DeePMD-kit's, float64
