"""Turn a config into a job.

compose        composes the config of each cell of a sweep, quickly
config_checks  checks config values against a constructor's signature
instantiate    builds the object that a config group describes
spec           the settings that determine a run's result, and the run id hashed from them
job            a run of an SAE that is ready to start
recovery       a synthetic experiment that is ready to start
recorded       makes the jobs of finished runs again from their records
build          turns a composed config into a job
"""
