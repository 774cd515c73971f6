"""A first sweep file of your own (`sweep init`): data that are there, settings that fit them and the machine, YAML."""
