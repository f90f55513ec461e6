"""What kind of dictionary an SAE is: specific latents, known members, what the corpus says, maps, scaling."""
