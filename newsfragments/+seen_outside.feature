``dials.diffuse_mask`` measures on the checked images which part of the Bragg photons is seen outside of the masks, shows it in the table, and warns above 2 %.
