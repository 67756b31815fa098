"""Parameters of dials.diffuse_simulate; `dials_diffuse.simulation.settings` has a class a scope."""

from __future__ import annotations

from iotbx import phil

from dials_diffuse.phil.common import nproc_str, output_str

phil_str = f"""
stills = 30
  .type = int(value_min=1)
  .help = "Number of images."
seed = 20
  .type = int(value_min=0)
  .help = "Of everything random. The same seed gives the same images, whatever nproc is."
format = *auto cbf nexus
  .type = choice
  .help = "Of the images: cbf (miniCBF, one panel normal to the beam, one image a file)"
          "or nexus (NXmx, any detector). auto: cbf where it can hold the detector."
{nproc_str}
beam
  .help = "The incident beam."
{{
  wavelength = 1.0
    .type = float(value_min=0.1, value_max=5)
    .help = "Mean wavelength in Angstrom."
  wavelength_jitter = 0.0
    .type = float(value_min=0, value_max=0.1)
    .help = "Relative standard deviation of the wavelength from still to still."
  bandwidth = 0.0
    .type = float(value_min=0, value_max=0.1)
    .help = "Relative standard deviation of the wavelength within a still."
  polarization_fraction = 0.99
    .type = float(value_min=0, value_max=1)
    .help = "Part of the beam with its electric field in the plane of polarization."
  polarization_normal = 0, 1, 0
    .type = floats(size=3)
    .help = "Normal of the plane of polarization, lab frame."
}}
detector
  .help = "The detector."
{{
  type = *single tilted pilatus_6m
    .type = choice
    .help = "One panel normal to the beam, a hierarchy of tilted groups of tilted panels,"
            "or a PILATUS 6M."
  groups = 2, 2
    .type = ints(size=2, value_min=1)
    .help = "Number of groups, and of panels in each (tilted)."
    .expert_level = 1
  distance = 200.0
    .type = float(value_min=1)
    .help = "From sample to detector, mm."
  distance_jitter = 0.0
    .type = float(value_min=0)
    .help = "Standard deviation of the distance from still to still, mm."
  pixel_size = 0.4
    .type = float(value_min=0.001)
    .help = "Of a square pixel, mm (not for pilatus_6m)."
  image_size = 300, 300
    .type = ints(size=2, value_min=8)
    .help = "Fast and slow pixels of all panels together (not for pilatus_6m)."
  two_theta = 0.0
    .type = float(value_min=-180, value_max=180)
    .help = "Swing of the detector about the lab's x axis, degrees."
    .expert_level = 1
  thickness = 0.45
    .type = float(value_min=0)
    .help = "Of the silicon sensor, mm. 0: an ideal sensor that counts every photon"
            "at its surface."
  parallax = True
    .type = bool
    .help = "The thickness of the sensor displaces the image."
    .expert_level = 1
  gain = 1.0
    .type = float(value_min=0)
    .help = "ADU per photon."
  pedestal = 0.0
    .type = float
    .help = "ADU at no photon."
  readout_noise = 0.0
    .type = float(value_min=0)
    .help = "Standard deviation of a pixel's reading, ADU."
  saturation = 1000000
    .type = int(value_min=1)
    .help = "Highest trusted reading, ADU."
    .expert_level = 1
}}
crystal
  .help = "The crystals."
{{
  unit_cell = 57.9, 57.9, 38.1, 90, 90, 90
    .type = floats(size=6)
    .help = "Angstrom and degrees."
  space_group = "P 43 21 2"
    .type = str
    .help = "Symbol of the space group."
  orientation = *random fixed rotation
    .type = choice
    .help = "Of each still its own, the same on all, or turned by rotation_step"
            "from still to still."
  rotation_step = 0.5
    .type = float
    .help = "Degrees an image, about the scan axis of the goniometer."
  rotation_samples = 1
    .type = int(value_min=1)
    .help = "Number of angles that stand for that rotation while an image is exposed. 1: the"
            "crystal stands still in the middle of the step. output.reflections are those of"
            "the middle in any case."
    .expert_level = 1
  drift = 0.0
    .type = float
    .help = "Of a sweep (orientation=rotation): degrees by which the crystal leans over to the middle of the"
            "sweep, and back to its end."
    .expert_level = 1
  cell_drift = 0.0
    .type = float(value_min=-0.1, value_max=0.1)
    .help = "Of a sweep: part by which the cell's lengths have grown at its end."
    .expert_level = 1
  lattices = 1
    .type = int(value_min=1)
    .help = "Number of crystals in the beam on every image."
  cell_spread = 0.0
    .type = float(value_min=0, value_max=0.1)
    .help = "Relative standard deviation of the cell's lengths from crystal to crystal."
  mosaicity = 0.1
    .type = float(value_min=0, value_max=5)
    .help = "Full width at half maximum of the spread of orientations, degrees."
  domain_size = 1000.0
    .type = float(value_min=50)
    .help = "Size of the coherent domains, Angstrom."
}}
goniometer
  .help = "The goniometer of a sweep (crystal.orientation=rotation)."
{{
  axes = 1, 0, 0
    .type = floats
    .help = "Three numbers an axis, lab frame with all angles at 0, the axis next to the crystal first:"
            "phi, kappa, omega."
  angles = 0.0
    .type = floats
    .help = "Degrees, one an axis. The angle of the axis that is scanned is 0."
  scan_axis = 0
    .type = int(value_min=0)
    .help = "Number of the axis that turns, from 0. Those before it are the goniometer's fixed rotation,"
            "those after it its setting rotation."
}}
scan
  .help = "The scan of a sweep (crystal.orientation=rotation)."
{{
  first_image = 1
    .type = int(value_min=1)
    .help = "Number of the first image: 6 is a sweep whose first five images were cut off."
  start_angle = 0.0
    .type = float
    .help = "Angle at which the first image starts, degrees."
}}
truth
  .help = "Scattering of the unit cell besides its Bragg peaks."
{{
  composition = "C 284 H 432 N 84 O 79 S 7"
    .type = str
    .help = "Elements and numbers of atoms (one molecule of trypsin inhibitor), or model: all"
            "atoms that bragg.model puts into the unit cell."
  copies = 8.0
    .type = float(value_min=0)
    .help = "How many times the composition is in the unit cell (not for model)."
  b_factor = 20.0
    .type = float(value_min=0)
    .help = "Of all atoms, Angstrom^2: shares the scattering between Bragg peaks and"
            "diffuse scattering."
  envelope = *debye_waller gaussian constant
    .type = choice
    .help = "Shell mean of the diffuse intensity: sum f^2 (1 - exp(-B q^2/2)), or"
            "sum f(0)^2 with a gaussian of this width, or constant."
  width = 0.3
    .type = float(value_min=0.001)
    .help = "Standard deviation of the gaussian envelope, 1/Angstrom."
    .expert_level = 1
  anisotropy = 0.4
    .type = float(value_min=0)
    .help = "Standard deviation of the diffuse intensity about its shell mean,"
            "relative to it."
  terms = 20
    .type = int(value_min=0)
    .help = "Number of random waves in the anisotropic part."
    .expert_level = 1
  correlation_length = 14.0
    .type = float(value_min=0.1)
    .help = "Longest displacement in the waves, Angstrom: the shorter, the"
            "smoother the intensity is in reciprocal space."
  halo = 0.0
    .type = float(value_min=0)
    .help = "Height of a halo around every Bragg node, relative to the envelope."
  halo_width = 0.006
    .type = float(value_min=0.0001)
    .help = "Standard deviation of the halo, 1/Angstrom."
  solvent = 0.2
    .type = float(value_min=0)
    .help = "Height of the isotropic ring of the solvent, relative to sum f^2 there."
  solvent_position = 0.31
    .type = float(value_min=0)
    .help = "Of the ring, 1/Angstrom."
    .expert_level = 1
  solvent_width = 0.05
    .type = float(value_min=0.001)
    .help = "Standard deviation of the ring, 1/Angstrom."
    .expert_level = 1
  compton = True
    .type = bool
    .help = "Incoherent scattering of the composition."
}}
bragg
  .help = "The Bragg peaks."
{{
  enabled = True
    .type = bool
    .help = "Draw them."
  intensities = *wilson model
    .type = choice
    .help = "Random with Wilson's distribution, or those of an atomic model."
  model = None
    .type = path
    .help = "PDB or mmCIF file for intensities=model."
  uniform_b = True
    .type = bool
    .help = "Give all atoms of the model truth.b_factor, so that Bragg and diffuse"
            "scattering add up to sum f^2 at high resolution."
    .expert_level = 1
  scale = 1.0
    .type = float(value_min=0)
    .help = "Multiplies all intensities."
  blur = 0.5
    .type = float(value_min=0)
    .help = "Standard deviation, in pixels, by which spots are wider on the detector for"
            "the size of crystal and beam and the point spread."
  extent = 5.0
    .type = float(value_min=1)
    .help = "Peaks are drawn out to this many standard deviations."
    .expert_level = 1
  predict = 2.5
    .type = float(value_min=0)
    .help = "Reflections within this many standard deviations of the Ewald sphere"
            "are in the reflection table."
    .expert_level = 1
  strong = 5.0
    .type = float
    .help = "I/sigma above which a reflection is flagged strong and indexed."
    .expert_level = 1
  partiality = excitation *ones
    .type = choice
    .help = "In the table: from the distance to the Ewald sphere, or ones, as"
            "dials.stills_process writes."
  shoeboxes = False
    .type = bool
    .help = "Save the shoeboxes."
}}
scale
  .help = "Departures of a still from the mean: a d (b I + c)."
{{
  spread = 0.3
    .type = float(value_min=0)
    .help = "Standard deviation of ln b, b the scale of a still."
  values = None
    .type = floats(value_min=0)
    .help = "The scales themselves, one a still and lattice."
    .expert_level = 1
  profile = *random bell
    .type = choice
    .help = "Of b: random only, or times a bell as a crystal goes through the beam."
  offset = 0.0
    .type = float(value_min=0)
    .help = "Largest offset c(|q|), a ring at the solvent's place, relative to the mean"
            "intensity there."
  panel_spread = 0.0
    .type = float(value_min=0)
    .help = "Standard deviation of ln d, d the sensitivity of a panel."
  sensitivity = 0.0
    .type = float(value_min=0)
    .help = "Standard deviation of ln a, a the smooth sensitivity over the detector."
}}
exposure
  .help = "Dose of the stills."
{{
  mean_photons = 5.0
    .type = float(value_min=0)
    .help = "Mean photons a pixel from the crystal, Bragg peaks not counted."
  photons_per_electron2 = None
    .type = float(value_min=0)
    .help = "Instead of mean_photons: photons/(s sr) that one electron^2 per unit"
            "cell gives."
  time = 0.1
    .type = float(value_min=0)
    .help = "Exposure time of a still, s."
  time_spread = 0.0
    .type = float(value_min=0)
    .help = "Standard deviation of its logarithm."
  transmission = 1.0
    .type = float(value_min=0, value_max=1)
    .help = "Of the attenuator."
  transmission_spread = 0.0
    .type = float(value_min=0)
    .help = "Standard deviation of its logarithm."
  noise = True
    .type = bool
    .help = "Poisson noise. Without it the images hold rounded expectations."
}}
background
  .help = "What is there without a crystal."
{{
  air = 0.0
    .type = float(value_min=0)
    .help = "Photons a pixel scattered by air, mean over the detector."
  air_width = 0.12
    .type = float(value_min=0.001)
    .help = "Standard deviation of its profile, 1/Angstrom."
    .expert_level = 1
  flat = 0.0
    .type = float(value_min=0)
    .help = "Photons a pixel, the same in every pixel."
  angle_amplitude = 0.0
    .type = float(value_min=0, value_max=1)
    .help = "Of a sweep: the background at angle phi is 1 + angle_amplitude cos(phi) times its mean."
    .expert_level = 1
  absorption = True
    .type = bool
    .help = "Air between sample and detector absorbs."
  path = None
    .type = float(value_min=0)
    .help = "Length of that air, mm; None: all of the way."
    .expert_level = 1
  empty_shots = 0
    .type = int(value_min=0)
    .help = "Number of images without a crystal, in output.background."
  empty_step = 0.0
    .type = float(value_min=0)
    .help = "Degrees by which the goniometer turns in each of them: more than 0 makes one sweep of them."
  empty_time = None
    .type = float(value_min=0)
    .help = "Their exposure time, s; None: that of the stills."
  empty_transmission = None
    .type = float(value_min=0, value_max=1)
    .help = "Their transmission; None: that of the stills."
}}
defects
  .help = "What is wrong with the detector."
{{
  hot = 0
    .type = int(value_min=0)
    .help = "Number of hot pixels."
  dead = 0
    .type = int(value_min=0)
    .help = "Number of pixels that count nothing."
  negative = 0
    .type = int(value_min=0)
    .help = "Number of pixels that read -2."
  hot_counts = 300.0
    .type = float(value_min=0)
    .help = "Mean photons of a hot pixel."
  beam_stop = 0.0
    .type = float(value_min=0)
    .help = "Radius of the beam stop's shadow on the detector, mm."
  beam_stop_arm = 0.0
    .type = float(value_min=0)
    .help = "Width of the shadow of its holder, mm."
}}
""" + output_str(
    "diffuse_simulate",
    "simulated.expt",
    "simulated.refl",
    """
  truth = truth.json
    .type = path
    .help = "Name of the file for the truth: settings, seed, and what was drawn."
  background = background.expt
    .type = path
    .help = "Name of the experiments file of the empty shots."
  sequence = sequence.expt
    .type = path
    .help = "Name of the experiments file of a rotation series (crystal.orientation=rotation,"
            "miniCBF): the same images as one sweep with goniometer and scan."
  sequence_reflections = sequence.refl
    .type = path
    .help = "Name of the reflections file of that sweep, one row a passage of a node through the sphere."
  images = images
    .type = path
    .help = "Folder for the images."
""",
)

phil_scope = phil.parse(phil_str)
